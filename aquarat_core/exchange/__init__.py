"""Checkpoints of other programs: what is read becomes an artifact, and what is released is read by them."""
