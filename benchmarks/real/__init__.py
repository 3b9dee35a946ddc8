"""The parts of `./run bench rl-real`."""
