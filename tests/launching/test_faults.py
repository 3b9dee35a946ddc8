"""The faults that a run survives, against Dagster's own daemon; `./run bench faults` has all cases and their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.launching import faults
from tests.launching.rig import Rig


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One control host for all cases, as it is in life: its daemon runs, its only host is this machine."""
    made = Rig(tmp_path_factory.mktemp("rig"))
    made.start_daemon()
    made.order("aqua_dataset", steps=1)
    assert made.wait(made.launch("aqua_dataset")) == "SUCCESS"
    yield made
    made.close()


@pytest.mark.parametrize("case", faults.LOCAL, ids=lambda case: case.__name__)
def test_survives(busy: Rig, case: Callable[[Rig], dict]) -> None:
    case(busy)
