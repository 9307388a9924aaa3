"""The tokenizer, and the libraries that apply it."""
