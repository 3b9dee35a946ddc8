"""The old name of `hosts/`, `jobs/` and `runs/`, kept for one release: a user's `dagster.yaml` may still name it."""
