"""Measurements of the system, one file each: `./run bench NAME`."""
