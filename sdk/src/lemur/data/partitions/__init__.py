"""Partitions of sources, each tokenized to a stored result of its own."""
