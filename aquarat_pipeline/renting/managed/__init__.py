"""Rented hosts that run jobs: reached, examined, prepared, watched, drained, and taken out of the inventory."""
