"""Sensors: what Dagster watches for once they are switched on."""
