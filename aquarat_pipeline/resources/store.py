"""The artifact store as a Dagster resource."""

from __future__ import annotations

import os

import dagster as dg

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.settings import store_uri


class StoreResource(dg.ConfigurableResource["StoreResource"]):
    """Where artifacts are kept: a folder or a bucket."""

    uri: str

    @classmethod
    def from_environment(cls) -> StoreResource:
        """The store that `AQUARAT_STORE` names (read when a run starts), else the one next to Dagster's own
        database."""
        return cls(uri=dg.EnvVar("AQUARAT_STORE") if os.environ.get("AQUARAT_STORE") else store_uri())

    def open(self) -> ArtifactStore:
        """Raises `StoreError` with what to do if the store cannot be used."""
        return ArtifactStore.open(self.uri)
