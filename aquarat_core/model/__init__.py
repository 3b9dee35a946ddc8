"""The transformer and its accounting."""
