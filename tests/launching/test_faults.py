"""The faults that a run survives, against Dagster's own daemon; `./run bench faults` has all, and their costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.launching import faults
from tests.launching.network import Network, why_not
from tests.launching.rig import Rig

ON_THIS_MACHINE = (faults.run_worker, faults.supervisor, faults.shell, faults.cancel_waiting)
BEHIND_A_NETWORK = (faults.control_host, faults.network_away)


def ready(rig: Rig) -> Rig:
    """With a daemon, and the asset that the trained one is made from."""
    rig.start_daemon()
    rig.order("aqua_dataset", steps=1)
    assert rig.wait(rig.launch("aqua_dataset")) == "SUCCESS"
    return rig


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One control host for all cases, as it is in life; its only host is this machine."""
    made = Rig(tmp_path_factory.mktemp("rig"))
    yield ready(made)
    made.close()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Network]]:
    """A control host with two hosts behind a network, and the store in a bucket."""
    if why := why_not():
        pytest.skip(why)
    network = Network(tmp_path_factory.mktemp("network"), 2)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in network.environment.items():
            patch.setenv(name, value)
        hosts = [network.host(0), network.host(1)]
        made = Rig(tmp_path_factory.mktemp("rig"), hosts=hosts, store=network.store_uri, env=network.environment)
        try:
            yield ready(made), network
        finally:
            made.close()
            network.close()


@pytest.mark.parametrize("case", ON_THIS_MACHINE, ids=lambda case: case.__name__)
def test_survives(busy: Rig, case: Callable[[Rig], dict]) -> None:
    case(busy)


def test_kills_leave_nothing(busy: Rig) -> None:
    faults.hundred_kills(busy, rounds=3)


@pytest.mark.parametrize("case", BEHIND_A_NETWORK, ids=lambda case: case.__name__)
def test_survives_on_hosts(far: tuple[Rig, Network], case: Callable[[Rig, Network], dict]) -> None:
    case(*far)


def test_all_cases_are_in_the_bench() -> None:
    assert {*ON_THIS_MACHINE, *BEHIND_A_NETWORK} <= {*faults.LOCAL, *faults.NETWORK}
    assert os.environ.get("AQUARAT_RIG") is None
