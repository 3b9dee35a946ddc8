"""What is killed, and that the run ends with its asset materialized once all the same. `bench faults` has all cases."""

from __future__ import annotations

import os
import signal

from tests.launching.rig import Rig, assert_survived


def test_the_run_worker_is_killed(rig: Rig) -> None:
    rig.order("sft_checkpoint", steps=8, seconds=0.5)
    rig.start_daemon()
    run_id = rig.launch("sft_checkpoint", with_parents=True)
    rig.wait_for_step(run_id, "sft_checkpoint", 2)
    os.kill(rig.worker(run_id), signal.SIGKILL)
    assert assert_survived(rig, run_id, "sft_checkpoint", 8) == {"redone": 0, "trainers": 1}
    assert len(rig.materializations("aqua_dataset")) == 1
