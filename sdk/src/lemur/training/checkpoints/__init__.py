"""Resumable checkpoints: the state of a run in storage, whatever engine and number of processes wrote it."""
