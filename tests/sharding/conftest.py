"""A store, the place of a stage's shards in it, and a folder in which toy functions note their calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.sharding.records import ShardStore


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def place(store_uri: str) -> ShardStore:
    return ShardStore(ArtifactStore.open(store_uri), "toy")
