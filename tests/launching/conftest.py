"""A control host for each module that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launching.cluster_fixture import Cluster


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control host with one local host, and no daemon yet."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()
