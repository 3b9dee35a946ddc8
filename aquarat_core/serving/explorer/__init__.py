"""The explorer: what checkpoints answered to each question of their eval reports, and what they compute on the way."""
