"""One file or folder a task: what a row says to the model, and how an answer is read."""
