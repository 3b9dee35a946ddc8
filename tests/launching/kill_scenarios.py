"""What the fault cases share: a run that trains, what is done to it, and what must have come of it in the end.

What `expect` and `cancelled` return are facts for the table of `bench faults`; that the asset is materialized once, by
one trainer at a time, or not at all, and that nothing is left, is asserted there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dagster as dg

from aquarat_pipeline.runs import submit
from tests.launching.cluster_fixture import Cluster, assert_nothing_left, assert_survived
from tests.patience import wait_until

ASSET = "sft_checkpoint"
STEPS = 8
CANCELLED_WITHIN = 30.0

Victims = Callable[[Cluster, str], Iterable[int]]
"""The processes of a cluster's run that a case kills."""


def training(cluster: Cluster, **orders: Any) -> str:
    """A run whose trainer has made its second step, and does not make its last before the cluster releases it."""
    cluster.order(ASSET, **{"steps": STEPS, "seconds": 0.5, "hold": orders.get("steps", STEPS) - 1, **orders})
    run_id = cluster.launch(ASSET)
    cluster.wait_for_step(run_id, ASSET, 2)
    return run_id


def killed(cluster: Cluster, victims: Victims, trainers: int, how: signal.Signals = signal.SIGKILL) -> dict[str, Any]:
    """A run trains and `victims` get the signal; it takes that many trainers to see it through."""
    run_id = training(cluster)
    found = list(victims(cluster, run_id))
    assert found, "there is nobody to kill"
    for pid in found:
        os.kill(pid, how)
    return expect(cluster, run_id, trainers=trainers)


def expect(cluster: Cluster, run_id: str, trainers: int) -> dict[str, Any]:
    """The run succeeds as `assert_survived` says, by that many trainers one after the other."""
    began = time.monotonic()
    cluster.release(ASSET)
    cluster.wait(run_id)
    seconds = time.monotonic() - began
    found = assert_survived(cluster, run_id, ASSET, STEPS)
    assert found["trainers"] == trainers
    # A step is counted as made before it is saved: the one that was cut off may be made again.
    assert found["redone"] <= trainers - 1
    return {"outcome": "materialized once", "seconds": round(seconds, 1), **found}


def cancelled(
    cluster: Cluster, run_id: str, left: int = 0, cancel: Callable[[str], Any] | None = None
) -> dict[str, Any]:
    """Cancels the run, by `cancel` or as `aquarat cancel` does: it ends, its trainer with it, and for good.

    Its `seconds` are held against `CANCELLED_WITHIN` by `./run bench faults`, on a quiet machine.
    """
    began = time.monotonic()
    if cancel:
        cancel(run_id)
    else:
        submit.cancel(cluster.instance, cluster.run(run_id))
    wait_until(lambda: cluster.run(run_id).is_finished, CANCELLED_WITHIN, "the run ends")
    assert cluster.run(run_id).status == dg.DagsterRunStatus.CANCELED, cluster.story(run_id)
    wait_until(lambda: len(cluster.leases()) == left, CANCELLED_WITHIN, "the lease is given back")
    seconds = time.monotonic() - began
    made = len(cluster.trace(run_id, ASSET))
    time.sleep(1.5)
    assert len(cluster.trace(run_id, ASSET)) == made
    assert not [r for r in cluster.materializations(ASSET) if r.run_id == run_id]
    if not left:
        assert_nothing_left(cluster, run_id)
    return {"outcome": "cancelled, nothing materialized", "seconds": round(seconds, 1), "redone": 0}


def command_of(pid: int) -> bytes:
    """The command line of a process, empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
