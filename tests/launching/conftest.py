"""A control host, and a project in small that can be sent to hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launching.cluster_fixture import Cluster
from tests.launching.small_checkout import small_checkout


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control host with one local host, and no daemon yet."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project in small in `tmp_path`, and beside it the index that has its wheels."""
    return small_checkout(tmp_path)
