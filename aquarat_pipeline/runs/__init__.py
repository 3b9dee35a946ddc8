"""Runs: checked beforehand, started, executed in a worker, resumed, cancelled and watched."""
