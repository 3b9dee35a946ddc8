"""Dagster resources: what assets and checks are given from outside."""
