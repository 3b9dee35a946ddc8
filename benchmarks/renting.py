"""Renting: all failures on all fake providers, kills, random sequences, and what a keeper costs when nothing happens.

A row for each case as it ends: what came of it, the seconds that were paid for nothing, and the money that a provider
billed and our ledger does not know. The random sequences end with nothing alive beyond the bounds of
`tests/renting/faults/stage.py`. `AQUARAT_BENCH_SEQUENCES` is how many there are (default 300), `AQUARAT_BENCH_KILLS=0`
leaves out the kills, and `AQUARAT_FAULTS` holds parts of names of the cases to play.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.renting.ledger import Ledger
from benchmarks.harness import Result, unmeasured
from tests.launching.network import why_not
from tests.renting.fakes.script import Effect
from tests.renting.faults import accounts, asking, ending, hosts, looking  # noqa: F401  (they list their cases)
from tests.renting.faults.control_host import KINDS
from tests.renting.faults.kills import ANSWERS, killed_everywhere
from tests.renting.faults.many import fill
from tests.renting.faults.processes import at_rest, killed_in_requests
from tests.renting.faults.stage import CASES, Stage, staged
from tests.renting.faults.storm import storm
from tests.renting.faults.walks import walk

RENTALS = 200
WHOLE_WAY = "tests/renting/test_end_to_end.py::test_from_a_waiting_run_to_the_proof_that_its_host_is_gone"


@dataclass(frozen=True)
class Played:
    """What became of a case, or of many of a kind."""

    name: str
    count: int = 1
    error: str = ""
    idle: float = 0.0
    leaked: int = 0
    seconds: float = 0.0
    turn_seconds: float = 0.0


def run() -> list[Result]:
    sequences = int(os.environ.get("AQUARAT_BENCH_SEQUENCES", "300"))
    kills = os.environ.get("AQUARAT_BENCH_KILLS", "1") != "0"
    wanted = os.environ.get("AQUARAT_FAULTS", "").split()
    numbers = [n for n, one in enumerate(CASES) if not wanted or any(part in str(one) for part in wanted)]
    print(f"{'case':<76}{'outcome':<10}{'idle s':>8}{'leaked $':>10}{'seconds':>9}", flush=True)
    with scratch_folder("bench") as folder:
        rest = at_rest(folder / "rest")
        asked, too_soon = storm(folder / "storm")
        print(f"{asked} requests by three processes at once: {too_soon} too soon", flush=True)
        load = [_load(folder / f"ledger-{n}") for n in range(3)]
        played = list(_all(numbers, kills, sequences))
        if kills:
            played.append(_shown(_timed("SIGKILL of real keepers in requests", lambda: _in_requests(folder / "kills"))))
    cases = [one for one in played if one.name in {str(one) for one in CASES}]
    walks = [one for one in played if one.name.startswith("sequence ")]
    total = sum(one.count for one in played)
    passed = sum(one.count for one in played if not one.error)
    turns = [one.turn_seconds for one in played if one.turn_seconds]
    return [
        Result("cases", "cases", (float(total),)),
        Result("passed", "cases", (float(passed),), goal=f"≥ {total} cases"),
        Result("cases/of_the_table", "cases", (float(len(cases)),)),
        Result("cases/random_sequences", "cases", (float(len(walks)),)),
        Result("worst_paid_idle", "s", (max((one.idle for one in played), default=0.0),)),
        Result("leaked_money", "dollars", (sum(one.leaked for one in played) / 1e6,), goal="≤ 0 dollars"),
        Result("requests_too_soon", "requests", (float(too_soon),), goal="≤ 0 requests"),
        Result("keeper/core_share", "%", (100 * rest.core_share,), goal="≤ 1 %"),
        Result("keeper/requests", "per_minute", (rest.requests_per_minute,), goal="≤ 6 per_minute"),
        Result(f"ledger/load_of_{RENTALS}", "s", tuple(load), goal="≤ 0.2 s"),
        Result("turn_among_500_instances", "s", tuple(turns), goal="≤ 1 s") if turns
        else unmeasured("turn_among_500_instances", "s", "its cases were not played"),
        _whole_way(),
    ]  # fmt: skip


def _all(numbers: list[int], kills: bool, sequences: int) -> Iterator[Played]:
    """Plays everything in as many processes as there are cores."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        waiting: list[Future[Played]] = [pool.submit(_case, number) for number in numbers]
        if kills:
            waiting += [pool.submit(_kill, kind, answer) for kind in KINDS for answer in ANSWERS]
        waiting += [pool.submit(_walk, seed) for seed in range(sequences)]
        for done in as_completed(waiting):
            yield _shown(done.result())


def _case(number: int) -> Played:
    one = CASES[number]
    with tempfile.TemporaryDirectory() as folder, staged(one.kind, Path(folder)) as stage:

        def play() -> int:
            one.play(stage)
            stage.check()
            return 1

        return _timed(str(one), play, stage)


def _kill(kind: str, answer: Effect | None) -> Played:
    with tempfile.TemporaryDirectory() as folder:
        name = f"killed at every point, order answered {answer or 'well'} - {kind}"
        return _timed(name, lambda: len(killed_everywhere(kind, answer, Path(folder))))


def _walk(seed: int) -> Played:
    with tempfile.TemporaryDirectory() as folder:
        return _timed(f"sequence {seed}", lambda: bool(walk(seed, Path(folder))))


def _in_requests(folder: Path) -> int:
    return killed_in_requests(folder)


def _timed(name: str, do: Callable[[], int], stage: Stage | None = None) -> Played:
    began, count, error = time.monotonic(), 1, ""
    try:
        count = int(do())
    except Exception as e:
        error = f"{type(e).__name__}: {str(e)[:300]}"
    facts = (stage.facts.idle, stage.facts.leaked) if stage else (0.0, 0)
    return Played(name, count, error, *facts, time.monotonic() - began, stage.turn_seconds if stage else 0.0)


def _shown(one: Played) -> Played:
    outcome = "FAILED" if one.error else "passed" if one.count == 1 else f"{one.count} passed"
    print(f"{one.name:<76}{outcome:<10}{one.idle:>8.0f}{one.leaked / 1e6:>10.2f}{one.seconds:>9.1f}", flush=True)
    if one.error:
        print(f"    {one.error}", flush=True)
    return one


def _whole_way() -> Result:
    """From a run that waits for a host to the proof that its host is gone, with real ssh and torchrun."""
    name, goal = "end_to_end", "≤ 120 s"
    if why := why_not():
        return unmeasured(name, "s", why, goal)
    if importlib.util.find_spec("tests.renting.chain") is None:
        return unmeasured(name, "s", "there are no instances that are real hosts", goal)
    # Network namespaces and Dagster's settings belong to one process at a time, which ends with the measurement.
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-n", "0", "-p", "no:cacheprovider", WHOLE_WAY]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True)
    found = re.search(r"'gone': '([0-9.]+) s'", done.stdout)
    if done.returncode or found is None:
        return unmeasured(name, "s", f"FAILED: {done.stdout[-300:]}", goal)
    return Result(name, "s", (float(found[1]),), goal=goal)


def _load(folder: Path) -> float:
    fill(Ledger(folder), RENTALS)
    began = time.perf_counter()
    loaded = Ledger(folder).load()
    spent = time.perf_counter() - began
    assert len(loaded.rentals) == RENTALS and not loaded.problems
    return spent
