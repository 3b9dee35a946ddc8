"""The run queue: a burst of launches has as many workers at once as there are places, and parked runs take none."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from aquarat_core.agent import processes
from aquarat_pipeline.jobs.parking import Parked, write
from aquarat_pipeline.workers import is_executing, is_parked, worker_of
from tests.launching.cluster_fixture import Cluster
from tests.launching.kill_scenarios import ASSET, training
from tests.patience import wait_until


def limited(places: int) -> dict[str, object]:
    """The section of `dagster.yaml`."""
    config = {"max_concurrent_runs": places, "dequeue_interval_seconds": 1, "dequeue_use_threads": True}
    return {
        "run_coordinator": {"module": "aquarat_pipeline.runs.run_queue", "class": "RunQueue", "config": config},
    }


@pytest.mark.parametrize(("places", "limit"), [(10, 12), (0, 2), (-1, -1)])
def test_parked_runs_are_added_to_the_limit(tmp_path: Path, places: int, limit: int) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(limited(places)))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for run in ("one", "two"):
            write(tmp_path, Parked(run=run, stage=ASSET, asset=(ASSET,), ticket=run))
        config = instance.get_concurrency_config().run_queue_config
        assert config is not None and config.max_concurrent_runs == limit
        assert instance.run_coordinator.dequeue_use_threads


@pytest.mark.slow
def test_a_burst_of_launches_waits_for_places_that_parked_runs_leave(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", park_after_seconds=0.5, settings=limited(1))
    try:
        first = training(cluster.ready())
        wait_until(lambda: is_parked(cluster.home, first), 60, "the first run is parked")
        burst = [cluster.launch(ASSET) for _ in range(3)]
        most = 0

        def all_parked() -> bool:
            nonlocal most
            workers = [worker_of(cluster.run(run_id).tags) for run_id in burst]
            most = max(most, sum(worker is not None and processes.is_alive(worker) for worker in workers))
            return all(is_parked(cluster.home, run_id) for run_id in burst)

        wait_until(all_parked, 120, "all are in line")
        # A worker writes the record of its parked run just before it ends.
        assert most <= 2
        wait_until(lambda: not any(is_executing(cluster.home, run_id) for run_id in burst), 20, "no worker is left")
    finally:
        cluster.close()
