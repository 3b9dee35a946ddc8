"""A control host for each module that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launching.rig import Rig


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A control host with one local host, and no daemon yet."""
    made = Rig(tmp_path_factory.mktemp("rig"))
    yield made
    made.close()
