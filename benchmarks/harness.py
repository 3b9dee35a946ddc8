"""The shared parts of all benches: results with goals, ratios from interleaved runs, and a description of the machine.

A bench is a module of this folder with a docstring, whose first line the list shows, and a function `run()` that
returns its `Result`s. A goal stands beside the measurement and never decides whether a bench succeeds. A goal with a
unit ("≤ 600 s") is about the value; one without ("≥ 10") about the ratio to what was measured against.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from aquarat_core.artifacts import git_state, hardware
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.command import torchrun

_GOAL = re.compile(r"([≤≥]) (\d+(?:\.\d+)?)(?: (\S+))?")
_COMPARE = {"≤": operator.le, "≥": operator.ge}


class BenchError(RuntimeError):
    """A bench that could not measure; the message says why."""


@dataclass(frozen=True, slots=True)
class Against:
    """What a result is compared with, in the result's unit."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Result:
    """One measured quantity; `runs` without a value is one that could not be measured here, for the `reason` given."""

    name: str
    unit: str
    runs: tuple[float, ...]
    against: Against | None = None
    ratio: float | None = None
    goal: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        assert self.runs or self.reason, f"{self.name} has neither a measurement nor a reason why not"
        if self.goal is not None:
            match = _GOAL.fullmatch(self.goal)
            assert match, f"{self.name}: a goal reads '≤ 600 s' or '≥ 10', not {self.goal!r}"
            assert match[3] in (None, self.unit), f"{self.name} is in {self.unit}, its goal in {match[3]}"

    @property
    def value(self) -> float | None:
        """The median run."""
        return median(self.runs) if self.runs else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The smallest and the largest run."""
        return (min(self.runs), max(self.runs)) if self.runs else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a measurement."""
        match = _GOAL.fullmatch(self.goal) if self.goal else None
        measured = self.value if match and match[3] else self.ratio
        return _COMPARE[match[1]](measured, float(match[2])) if match and measured is not None else None

    def to_json(self) -> dict[str, Any]:
        """The result as it stands in the bench's line of JSON; `reason` is there where `value` is null."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "spread": self.spread,
            "runs": len(self.runs),
            "against": {"name": self.against.name, "value": self.against.value} if self.against else None,
            "ratio": self.ratio,
            "goal": self.goal,
            "met": self.met,
        } | ({"reason": self.reason} if self.reason else {})


def unmeasured(name: str, unit: str, reason: str, goal: str | None = None) -> Result:
    """A quantity that this machine cannot measure, such as anything on a GPU where there is none."""
    return Result(name, unit, (), goal=goal, reason=reason)


def compare(
    name: str,
    unit: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    against: str,
    *,
    runs: int = 5,
    goal: str | None = None,
) -> Result:
    """Measures two things in turn, `runs` times each, and gives the median of the pairs' ratios ours / theirs.

    Both functions return one measurement in `unit`. What slows the machine for a while slows both of a pair, so it
    leaves their ratio alone; the order within a pair alternates, so that neither always runs on warm caches.
    """
    pairs = []
    for i in range(runs):
        measured = {f: f() for f in ((ours, theirs) if i % 2 == 0 else (theirs, ours))}
        pairs.append((measured[ours], measured[theirs]))
    ratio = median(a / b for a, b in pairs)
    baseline = Against(against, median(b for _, b in pairs))
    return Result(name, unit, tuple(a for a, _ in pairs), baseline, ratio, goal)


def run_apart(
    module: str,
    work: dict[str, Any],
    folder: Path,
    ranks: int = 1,
    env: dict[str, str] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """What `module`, run in a process of its own or on several ranks, writes to the file `out` of its `work`, which is
    in WORK.

    Raises `BenchError` with the end of its standard error when it fails, or when it takes longer than `seconds`.
    """
    out = folder / "measured.json"
    environment = os.environ | (env or {}) | {"WORK": json.dumps(work | {"out": str(out)})}
    command = [sys.executable, "-m", module]
    if ranks > 1:
        command = torchrun(command[1:], ranks, str(folder / "logs"))
    try:
        done = subprocess.run(command, cwd=REPO_ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{module} with {work} takes longer than {seconds:.0f} s") from None
    if done.returncode:
        raise BenchError(f"{module} with {work} ended with exit code {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(out.read_text())


def report(bench: str, results: Sequence[Result]) -> dict[str, Any]:
    """The object that a bench's last line of standard output holds."""
    return {"bench": bench, "results": [r.to_json() for r in results], "machine": machine()}


def machine() -> dict[str, Any]:
    """Where and on what it was measured; `memory` in bytes, `gpu` None where torch sees none."""
    import torch  # noqa: F401  (hardware() names the GPU only where torch is loaded)

    found = hardware()
    commit, dirty = git_state(REPO_ROOT)
    return {
        "cores": found["cores"],
        "memory": found["memory_bytes"],
        "cpu": found["cpu"],
        "gpu": found.get("gpu"),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "commit": commit,
        "dirty": dirty,
    }
