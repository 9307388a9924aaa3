"""Tokenized partitions to a mixture: what stays, how it fills sequences, and the index of it."""
