"""What happens inside a checkpoint: attention by head, the logit lens, induction; measured and drawn."""
