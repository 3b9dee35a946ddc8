"""Benches that take no time."""
