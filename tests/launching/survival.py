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
from tests.launching.rig import Rig, assert_nothing_left, assert_survived
from tests.patience import wait_until

ASSET = "sft_checkpoint"
STEPS = 8
CANCELLED_WITHIN = 30.0

Victims = Callable[[Rig, str], Iterable[int]]
"""The processes of a rig's run that a case kills."""


def training(rig: Rig, **orders: Any) -> str:
    """A run whose trainer has made its second step, and does not make its last before the rig releases it."""
    rig.order(ASSET, **{"steps": STEPS, "seconds": 0.5, "hold": orders.get("steps", STEPS) - 1, **orders})
    run_id = rig.launch(ASSET)
    rig.wait_for_step(run_id, ASSET, 2)
    return run_id


def killed(rig: Rig, victims: Victims, trainers: int, how: signal.Signals = signal.SIGKILL) -> dict[str, Any]:
    """A run trains and `victims` get the signal; it takes that many trainers to see it through."""
    run_id = training(rig)
    found = list(victims(rig, run_id))
    assert found, "there is nobody to kill"
    for pid in found:
        os.kill(pid, how)
    return expect(rig, run_id, trainers=trainers)


def expect(rig: Rig, run_id: str, trainers: int) -> dict[str, Any]:
    """The run succeeds as `assert_survived` says, by that many trainers one after the other."""
    began = time.monotonic()
    rig.release(ASSET)
    rig.wait(run_id)
    seconds = time.monotonic() - began
    found = assert_survived(rig, run_id, ASSET, STEPS)
    assert found["trainers"] == trainers
    # A step is counted as made before it is saved: the one that was cut off may be made again.
    assert found["redone"] <= trainers - 1
    return {"outcome": "materialized once", "seconds": round(seconds, 1), **found}


def cancelled(rig: Rig, run_id: str, left: int = 0, cancel: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Cancels the run, by `cancel` or as `aquarat cancel` does: it ends, its trainer with it, and for good.

    Its `seconds` are held against `CANCELLED_WITHIN` by `./run bench faults`, on a quiet machine.
    """
    began = time.monotonic()
    if cancel:
        cancel(run_id)
    else:
        submit.cancel(rig.instance, rig.run(run_id))
    wait_until(lambda: rig.run(run_id).is_finished, CANCELLED_WITHIN, "the run ends")
    assert rig.run(run_id).status == dg.DagsterRunStatus.CANCELED, rig.story(run_id)
    wait_until(lambda: len(rig.leases()) == left, CANCELLED_WITHIN, "the lease is given back")
    seconds = time.monotonic() - began
    made = len(rig.trace(run_id, ASSET))
    time.sleep(1.5)
    assert len(rig.trace(run_id, ASSET)) == made
    assert not [r for r in rig.materializations(ASSET) if r.run_id == run_id]
    if not left:
        assert_nothing_left(rig, run_id)
    return {"outcome": "cancelled, nothing materialized", "seconds": round(seconds, 1), "redone": 0}


def command_of(pid: int) -> bytes:
    """The command line of a process, empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
