"""The faults that a run survives, against Dagster's own daemon; `./run bench faults` has all, and their costs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.launching import faults, many_runs
from tests.launching.cluster_fixture import MODULE, Cluster, assert_nothing_left
from tests.launching.kill_scenarios import ASSET

ON_THIS_MACHINE = (
    faults.run_worker,
    faults.supervisor,
    faults.torchrun_terminated,
    faults.rank_terminated,
    faults.shell,
    faults.shell_with_a_profile,
    faults.overtaken_shell,
    faults.cancel_waiting,
    faults.cancel_resuming,
    faults.cancel_in_web_server,
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One control host for all cases, as it is in life; its only host is this machine."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made.ready()
    made.close()


@pytest.mark.parametrize("case", ON_THIS_MACHINE, ids=lambda case: case.__name__)
def test_survives(busy: Cluster, case: Callable[[Cluster], dict]) -> None:
    case(busy)


def test_the_command_line_launches_detaches_and_cancels(busy: Cluster) -> None:
    busy.order(ASSET, steps=8, seconds=0.5, hold=7)
    aquarat = [sys.executable, "-u", "-m", "aquarat_core.cli"]
    env = {**os.environ, **busy.environment, "DAGSTER_MODULE_NAME": MODULE}
    launch = subprocess.Popen(
        [*aquarat, "launch", ASSET, "--follow"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        # As at a terminal, also where the tests themselves run in the background, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    shown = []
    for line in launch.stdout:
        shown.append(line.rstrip())
        if "Started execution of step" in line:
            busy.wait_for_step(shown[0].split()[1], ASSET)
            launch.send_signal(signal.SIGINT)
    run_id = shown[0].split()[1]
    assert shown[0] == f"run {run_id} is queued"
    assert any("sft_checkpoint: Started execution of step" in line for line in shown)
    assert launch.wait() == 0
    assert shown[-1] == f"The run continues. To end it: aquarat cancel {run_id[:8]}"
    assert not busy.run(run_id).is_finished
    out = subprocess.run([*aquarat, "tail", run_id[:8], "--lines", "1"], env=env, capture_output=True, text=True)
    said = out.stdout.splitlines()
    rank = next(k for k, line in enumerate(said) if line == "== one: rank 0, stdout")
    assert re.fullmatch(r"step \d+", said[rank + 1]), out.stdout + out.stderr
    out = subprocess.run([*aquarat, "cancel", run_id[:8]], env=env, capture_output=True, text=True)
    assert out.stdout == f"run {run_id}: CANCELED\n", out.stderr
    assert_nothing_left(busy, run_id)


@pytest.mark.parametrize("case", many_runs.CASES[1:], ids=lambda case: case.__name__)
def test_kills_leave_nothing(busy: Cluster, case: Callable[..., dict]) -> None:
    case(busy, rounds=3)


def test_all_cases_are_in_the_bench() -> None:
    assert {*ON_THIS_MACHINE} <= {*faults.CASES}
    assert os.environ.get("AQUARAT_TEST_CLUSTER") is None
