"""Dagster resources that assets and checks use."""
