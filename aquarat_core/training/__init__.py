"""The training loop and what it stands on: processes, batches, updates, metrics, checkpoints."""
