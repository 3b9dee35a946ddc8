"""The Dagster side: assets, checks, schedules and launching. Imports no torch; training runs in other processes."""
