"""A real run that waits: its worker starts the keeper, which rents in time, and the run's log says what is done."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from aquarat_pipeline.hosts.queueing import waiting_steps
from aquarat_pipeline.renting import keeping
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.runs import submit
from aquarat_pipeline.sensors.renting import keep_rentals
from tests.launching.cluster_fixture import Cluster
from tests.launching.kill_scenarios import ASSET
from tests.launching.network import Network, why_not
from tests.patience import wait_until
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.server import KEY
from tests.renting.test_demand import wait as begin_to_wait
from tests.renting.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RENT = (
    "accounts:\n  mine: {{cloud: lambda, address: '{address}', per_day: 30}}\n"
    "pools:\n  small:\n    from: [{{account: mine, types: ['gpu_1x_*']}}]\n"
    "    max_price_per_hour: 2\n    hours: 2\n    automatic: {automatic}\nlimits: {{wait_minutes: 0.1}}\n"
)


@pytest.fixture
def fake() -> Iterator[FakeLambda]:
    clock: Any = SimpleNamespace(now=time.time)
    with FakeLambda(clock, timing=Timing(boot=600, ending=1), every=0.5).serve() as fake:
        assert isinstance(fake, FakeLambda)
        yield fake
        assert fake.complaints == [] and fake.too_fast == 0


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """With its store in a bucket, as rented hosts need it."""
    if why := why_not():
        pytest.skip(why)
    network = Network(tmp_path / "network", 0)
    for name, value in network.environment.items():
        monkeypatch.setenv(name, value)
    env = {"LAMBDA_API_KEY": KEY, **network.environment}
    made = Cluster(tmp_path / "cluster", store=network.store_uri, env=env)
    try:
        yield made.ready()
    finally:
        made.close()
        network.close()


def settings(cluster: Cluster, fake: FakeLambda, automatic: bool) -> None:
    (cluster.home / "rent.yaml").write_text(RENT.format(address=fake.address, automatic=str(automatic).lower()))


def end_keeper(home: Path) -> None:
    if keeping.is_alive(home):
        os.kill(int((home / "aquarat" / "keeper.lock").read_text()), signal.SIGKILL)


def test_a_run_waits_for_what_is_rented_for_it(cluster: Cluster, fake: FakeLambda) -> None:
    settings(cluster, fake, automatic=False)
    run_id = cluster.launch(ASSET, tags={"aquarat/pool": "small", "aquarat/budget": "5"})

    def says(text: str) -> bool:
        return f"Waiting for a host labeled small for 1 process: {text}" in cluster.story(run_id)

    wait_until(lambda: says("the pool small of rent.yaml is not automatic, so a person has to rent"), 60, "it says so")
    assert not keeping.is_alive(cluster.home) and not fake.requests
    (step,) = waiting_steps(cluster.home)
    assert (step.run_id, step.budget_micros) == (run_id, 5_000_000)

    settings(cluster, fake, automatic=True)
    wait_until(lambda: fake.alive(), 60, "the worker starts a keeper, and that one rents")
    wait_until(lambda: says("renting gpu_1x_rtx6000 in us-east-1 for $0.69 an hour; booting"), 60, "the log says so")
    (rental,) = Ledger(cluster.home).load().rentals
    assert (rental.order.run, rental.order.run_budget_micros) == (run_id, 5_000_000)
    assert rental.name == fake.alive()[0].name
    assert not cluster.run(run_id).is_finished
    assert KEY not in cluster.story(run_id)

    submit.cancel(cluster.instance, cluster.run(run_id))
    assert cluster.run(run_id).status.value == "CANCELED" and waiting_steps(cluster.home) == []


def asked(silent: socket.socket) -> bool:
    """Whether somebody has connected since it was last called."""
    with suppress(BlockingIOError):
        silent.accept()[0].close()
        return True
    return False


def tick(cluster: Cluster) -> str:
    context = dg.build_sensor_context(instance=cluster.instance)
    data = keep_rentals().evaluate_tick(context)
    assert not data.run_requests
    return data.skip_message or ""


def test_the_sensor_starts_a_keeper_only_where_one_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider here never answers, and only the keeper ever asks it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("")
    world = World(home)
    with dg.DagsterInstance.from_config(str(home)) as instance, socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        cluster: Any = SimpleNamespace(instance=instance, home=home)
        fake: Any = SimpleNamespace(address=f"http://127.0.0.1:{silent.getsockname()[1]}/api/v1")
        keeper = {"LAMBDA_API_KEY": KEY, "AQUARAT_CACHE": str(tmp_path), "AQUARAT_STORE": "gs://bucket/store"}
        for name, value in keeper.items():
            monkeypatch.setenv(name, value)
        assert tick(cluster) == "No keeper is needed."
        settings(cluster, fake, automatic=True)
        assert tick(cluster) == "No keeper is needed.", "nothing waits"
        end = begin_to_wait(world)
        settings(cluster, fake, automatic=False)
        assert tick(cluster) == "No keeper is needed.", "the pool is not automatic"
        (home / "rent.yaml").write_text("pools: broken")
        assert tick(cluster) == "No keeper is needed.", "nothing may be rented"
        settings(cluster, fake, automatic=True)
        assert not asked(silent)
        try:
            assert "there is something to do: step of run run waits for a host. Its log: " in tick(cluster)
            wait_until(lambda: keeping.is_alive(home), 30, "the keeper is up")
            wait_until(lambda: asked(silent), 60, "the keeper asks what there is")
            assert tick(cluster) == "The keeper is at work."
            assert not asked(silent)
            end_keeper(home)
            wait_until(lambda: not keeping.is_alive(home), 30, "it is gone")
            end()
            assert tick(cluster) == "No keeper is needed."
            world.seconds = time.time()
            world.order()
            assert "there is something to do: 1 rental has not ended" in tick(cluster)
            wait_until(lambda: keeping.is_alive(home), 30, "the keeper is up")
        finally:
            end_keeper(home)
