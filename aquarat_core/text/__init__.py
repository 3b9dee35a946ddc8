"""The tokenizer and how conversations become tokens."""
