"""The bench command: what it prints for people and for machines, and what it exits with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from aquarat_core.artifacts import git_state
from benchmarks.__main__ import main
from benchmarks.harness import Against, Result, compare
from tests.benchmarks import toys


def test_the_last_line_is_the_json_object(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["counting"], toys) == 0
    *shown, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    machine = found.pop("machine")
    nothing = {"against": None, "ratio": None}
    assert found == {
        "bench": "counting",
        "results": [
            {"name": "seconds", "value": 2.0, "unit": "s", "spread": [1.0, 3.0], "runs": 3, **nothing}
            | {"goal": "≤ 2 s", "met": True},
            {"name": "speed", "value": 40.0, "unit": "rows/s", "spread": [10.0, 60.0], "runs": 3}
            | {"against": {"name": "abacus", "value": 10.0}, "ratio": 4.0, "goal": "≥ 4", "met": True},
            {"name": "memory", "value": 7.0, "unit": "GB", "spread": [7.0, 7.0], "runs": 1, **nothing}
            | {"goal": "≤ 6 GB", "met": False},
            {"name": "throughput", "value": None, "unit": "tokens/s", "spread": None, "runs": 0, **nothing}
            | {"goal": "≥ 1000 tokens/s", "met": None, "reason": "there is no GPU here"},
        ],
    }
    assert set(machine) == {"cores", "memory", "cpu", "gpu", "torch", "python", "commit", "dirty"}
    assert machine["cores"] == len(os.sched_getaffinity(0))
    assert machine["python"] == platform.python_version()
    assert machine["commit"] == git_state(root)[0]
    text = "\n".join(shown)
    for cell in ("counting", "2 s", "1 to 3", "abacus 10", "≥ 4", "yes", "no", "not measured", "there is no GPU here"):
        assert cell in text


def test_a_bench_that_cannot_measure_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["counting", "failing"], toys) == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["bench"] == "counting"
    assert err == "bench failing: the abacus is broken\n"


def test_without_a_name_it_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], toys) == 0
    assert (
        capsys.readouterr().out
        == "checking  Checks something.\ncounting  Counts to three.\nfailing   Cannot measure.\n"
    )


def test_an_unknown_name_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["counting", "nope"], toys) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "bench: there is no nope; there are checking, counting, failing\n")


def test_the_real_benches_are_listed(root: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pipeline" in [line.split()[0] for line in done.stdout.splitlines()]


def test_pairs_are_interleaved_and_their_ratios_survive_a_slow_spell() -> None:
    order: list[str] = []

    def timed(who: str, seconds: float) -> float:
        order.append(who)
        return seconds * (10 if len(order) in (3, 4) else 1)

    ours, theirs = partial(timed, "ours", 1.0), partial(timed, "theirs", 2.0)
    found = compare("time", "s", ours, theirs, "theirs", runs=3, goal="≤ 0.5")
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (found.ratio, found.met) == (0.5, True)
    assert found.spread == (1.0, 10.0)
    assert found.against == Against("theirs", 2.0)


@pytest.mark.parametrize("goal", ["<= 3 s", "≤ 3s", "≤ 3 min", "fast"])
def test_a_goal_nobody_could_check_is_refused(goal: str) -> None:
    with pytest.raises(AssertionError):
        Result("wall_time", "s", (1.0,), goal=goal)
