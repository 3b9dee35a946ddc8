"""Batched generation for RL, evaluation and chat."""
