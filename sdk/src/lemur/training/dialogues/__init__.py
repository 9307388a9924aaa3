"""Dialogues as training data: ChatML, truncation, packing, and the order of a run."""
