"""A control host, and a project in small that can be sent to hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launching.cluster_fixture import Cluster
from tests.launching.machines import other_machine, postgres_or_skip
from tests.launching.postgres import Postgres
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


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """PostgreSQL, for the tests of a module."""
    with postgres_or_skip() as made:
        yield made


@pytest.fixture
def elsewhere(here: Cluster, server: Postgres, tmp_path: Path) -> Iterator[Cluster]:
    """Another machine beside the module's control host `here`, with the same database."""
    with other_machine(here, server, tmp_path / "elsewhere") as made:
        yield made
