"""Tasks, one file or folder each: how a row becomes a prompt, and how an answer is parsed."""
