"""The faults of hosts that a run survives, on hosts in miniature; `./run bench faults` has all, and their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.launching import host_faults
from tests.launching.cluster_fixture import Cluster
from tests.launching.network import Network, why_not

ON_HOSTS = (
    host_faults.fewer_and_more_hosts,
    host_faults.control_host,
    host_faults.network_away,
    host_faults.wrong_clock,
    host_faults.cancel_uploading,
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Network]]:
    """A control host with two hosts behind a network, and the store in a bucket."""
    if why := why_not():
        pytest.skip(why)
    network = Network(tmp_path_factory.mktemp("network"), 2)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in network.environment.items():
            patch.setenv(name, value)
        hosts = [network.host(0), network.host(1)]
        made = Cluster(
            tmp_path_factory.mktemp("cluster"), hosts=hosts, store=network.store_uri, env=network.environment
        )
        try:
            yield made.ready(), network
        finally:
            made.close()
            network.close()


@pytest.mark.parametrize("case", ON_HOSTS, ids=lambda case: case.__name__)
def test_survives_on_hosts(far: tuple[Cluster, Network], case: Callable[[Cluster, Network], dict]) -> None:
    case(*far)


def test_survives_a_lost_connection(far: tuple[Cluster, Network]) -> None:
    host_faults.connection_lost(*far, seconds=3.0)


def test_all_cases_are_in_the_bench() -> None:
    assert {*ON_HOSTS} <= {*host_faults.CASES}
