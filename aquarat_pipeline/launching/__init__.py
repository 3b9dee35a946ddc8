"""The old name of `hosts/`, `jobs/` and `runs/`, kept for one release because a user's `dagster.yaml` may name it."""
