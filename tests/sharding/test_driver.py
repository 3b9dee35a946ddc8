"""The driver with real worker processes: what is made once, tried again, made twice, and given up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from aquarat_core.errors import DataError, StageError
from aquarat_core.sharding.driver import Patience, make_shards
from aquarat_core.sharding.executor import Executor
from aquarat_core.sharding.inline import Inline
from aquarat_core.sharding.processes import Processes
from aquarat_core.sharding.ray_cluster import RayCluster
from aquarat_core.sharding.records import DisputedError, ShardRecord, ShardStore
from aquarat_core.sharding.spec import ShardSpec
from tests.patience import limit, wait_until
from tests.sharding.conftest import CLUSTERS
from tests.sharding.toys import calls, spec

QUICK = Patience(first_pause=0.01)
EAGER = Patience(first_pause=0.01, straggles_after=2.0, least=0.2)
PYTEST = "PYTEST_CURRENT_TEST"
Open = Callable[[Sequence[ShardSpec]], Executor]


def started() -> set[psutil.Process]:
    """The processes below this one, without those of the Ray cluster that tests share."""
    own = [child for child in psutil.Process().children() if child.pid not in CLUSTERS]
    return {process for child in own for process in (child, *child.children(recursive=True))}


@pytest.fixture(autouse=True)
def nothing_leaks() -> None:
    """No test leaves a process, a thread or another state of signals behind."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    before = [signal.getsignal(s) for s in signals], signal.pthread_sigmask(signal.SIG_BLOCK, [])
    threads, children = threading.active_count(), started()
    environment = dict(os.environ)
    yield
    assert started() <= children
    assert threading.active_count() == threads
    assert ([signal.getsignal(s) for s in signals], signal.pthread_sigmask(signal.SIG_BLOCK, [])) == before
    assert {**os.environ, PYTEST: ""} == {**environment, PYTEST: ""}


@pytest.fixture(params=["inline", "processes"])
def executor(request: pytest.FixtureRequest, place: ShardStore) -> Open:
    return (lambda _: Inline(place)) if request.param == "inline" else lambda _: Processes(place, 2)


def processes(place: ShardStore, slots: int = 2) -> Open:
    return lambda _: Processes(place, slots)


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.slow)])
def several(request: pytest.FixtureRequest, place: ShardStore) -> Callable[..., Open]:
    """Returns an executor that makes several shards at a time: in processes, or on a Ray cluster."""
    if request.param == "processes":
        return lambda slots=2: processes(place, slots)
    address = request.getfixturevalue("cluster").address
    return lambda slots=2: lambda _: RayCluster(place, address, slots)


@pytest.fixture
def lost(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """What the executor of the test says of a worker that a signal ended."""
    if request.node.callspec.params["several"] == "ray":
        return lambda name: "the Ray worker that made it was lost"
    return lambda name: f"the process that made it was ended by {name}"


def contents(records: list[ShardRecord]) -> list[tuple[str, ...]]:
    return [tuple(file.sha256 for file in record.files) for record in records]


def test_only_what_is_missing_is_made(place: ShardStore, log: Path, executor: Open) -> None:
    told: list[tuple[int, int]] = []
    wanted = [spec(n, log) for n in range(4)]
    made = make_shards(wanted, place, executor, progress=lambda *now: told.append(now))
    assert [r.name for r in made] == [s.name for s in wanted] and calls(log) == [0, 1, 2, 3]
    assert made[3].counts == {"number": 3, "third": 1.0} and made[1].counts["third"] == 1 / 3
    assert told[0] == (0, 4) and told[-1] == (4, 4) and told == sorted(told)
    assert all(
        place.store.backend.size(f"blobs/sha256/{f.sha256[:2]}/{f.sha256}") == 3200 for r in made for f in r.files
    )

    def unwanted(missing: Sequence[ShardSpec]) -> Executor:
        raise AssertionError(f"nothing is missing, but {missing}")

    assert make_shards(wanted, place, unwanted) == made
    more = make_shards([*wanted, spec(7, log)], place, executor)
    assert more[:4] == made and calls(log) == [0, 1, 2, 3, 7], "one that is added is the only one that is made"
    changed = make_shards([replace(s, settings=s.settings | {"size": 2}) for s in wanted], place, executor)
    assert calls(log) == sorted([0, 1, 2, 3] * 2 + [7]), "another setting makes other shards"
    assert contents(changed) == contents(made)
    elsewhere = [replace(s, aside=s.aside | {"threads": 3}) for s in wanted]
    assert make_shards(elsewhere, place, unwanted) == made, "what is aside does not count"


def test_the_same_shard_twice_in_a_list_is_made_once(place: ShardStore, log: Path, executor: Open) -> None:
    first, again = make_shards([spec(1, log), spec(1, log)], place, executor)
    assert first == again and calls(log) == [1]


def test_waiting_for_nothing_takes_its_time(executor: Open) -> None:
    idle = executor([])
    began = time.monotonic()
    assert idle.wait(0.1) == [] and time.monotonic() - began >= 0.1
    idle.close()


def test_damage_is_noticed_and_repaired(place: ShardStore, log: Path, executor: Open) -> None:
    wanted = [spec(n, log) for n in range(3)]
    made = make_shards(wanted, place, executor)
    backend = place.store.backend
    blobs = [f"blobs/sha256/{f.sha256[:2]}/{f.sha256}" for r in made for f in r.files]
    backend.write(blobs[0], b"x" * 3200)
    backend.delete(blobs[1])
    backend.write(next(backend.keys(f"shards/toy/{made[2].key}/")), b"{}")
    again = make_shards(wanted, place, executor)
    assert contents(again) == contents(made)
    assert calls(log) == [0, 0, 1, 1, 2, 2]
    assert make_shards(wanted, place, executor) == again and len(calls(log)) == 6


def test_workers_have_their_own_signals_and_do_not_share_output(place: ShardStore, log: Path) -> None:
    held = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        (made,) = make_shards([spec(1, log, "says")], place, processes(place))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGINT, held)
    assert made.counts == made.counts | {"ignores_interrupts": True, "blocked": 0, "threads": 1, "torch": False}
    assert made.counts["process"] != os.getpid()


def test_a_worker_that_is_killed_is_replaced(
    place: ShardStore, log: Path, several: Callable[..., Open], lost: Callable[[str], str]
) -> None:
    said: list[str] = []
    made = make_shards([spec(n, log, "dies_once") for n in range(3)], place, several(), patience=QUICK, log=said.append)
    assert [r.counts["number"] for r in made] == [0, 1, 2] and calls(log) == [0, 0, 1, 1, 2, 2]
    words = lost("SIGKILL, as the system does when memory runs out")
    assert sum(words in s and "; trying again" in s for s in said) == 3


@pytest.mark.parametrize(
    ("function", "kind", "words", "times"),
    [
        ("poison", StageError, "shard shard-003 was tried 4 times, and each time LOST", 4),
        ("fails", RuntimeError, "shard shard-003 failed 4 times, the last time with:", 4),
        ("refuses", DataError, "shard 3 has no text. Choose another", 1),
    ],
)  # fmt: skip
def test_a_shard_that_cannot_be_made_ends_the_stage_and_spoils_no_other(
    place: ShardStore, log: Path, several: Callable[..., Open], lost: Callable[[str], str], function: str,
    kind: type[Exception], words: str, times: int,
) -> None:  # fmt: skip
    wanted = [spec(n, log, function) for n in range(6)]
    with pytest.raises(kind) as e:
        make_shards(wanted, place, several(), patience=QUICK)
    assert type(e.value) is kind and words.replace("LOST", lost("SIGSEGV")) in str(e.value)
    assert calls(log).count(3) == times
    if function == "fails":
        assert "ZeroDivisionError: three" in str(e.value) and "in fails" in str(e.value)
    make_shards([s for s in wanted if s.name != "shard-003"], place, processes(place))
    assert [n for n in calls(log) if n != 3] == [0, 1, 2, 4, 5], "those that were made are kept"


def test_a_straggler_is_made_a_second_time(place: ShardStore, log: Path, several: Callable[..., Open]) -> None:
    said: list[str] = []
    wanted = [spec(n, log, "slow_once") for n in range(6)]
    began = time.monotonic()
    made = make_shards(wanted, place, several(), patience=EAGER, log=said.append)
    assert time.monotonic() - began < limit(60)
    assert [r.counts["number"] for r in made] == list(range(6)) and set(calls(log)) == set(range(6))
    assert calls(log).count(3) == 2
    assert any("shard shard-003 has taken" in s for s in said)


def test_an_impure_function_is_found_out_and_is_not_used_by_a_later_run(
    place: ShardStore, log: Path, several: Callable[..., Open]
) -> None:
    quick = [spec(n, log) for n in range(3)]
    doubtful = spec(8, log, "impure_twice")
    results_of = f"shards/toy/{doubtful.key('toy')}/"
    long = spec(9, log, "waits", folder=f"{place.store.uri.removeprefix('file://')}/{results_of}")
    with pytest.raises(DisputedError, match="toy, shard shard-008: it was made twice with different results") as e:
        make_shards([*quick, doubtful, long], place, several(4), patience=EAGER)
    results = sorted(Path(key).stem for key in place.store.backend.keys(results_of))
    assert len(results) == 2 and all(result in str(e.value) for result in results)
    for _ in range(2):
        with pytest.raises(DisputedError, match=f"{results[0]} and {results[1]}"):
            make_shards([*quick, doubtful], place, processes(place))
    place.store.backend.delete(f"{results_of}{results[1]}.json")
    assert make_shards([doubtful], place, processes(place))[0].digest == results[0]


def test_two_drivers_with_an_impure_function_do_not_both_succeed(
    place: ShardStore, log: Path, several: Callable[..., Open]
) -> None:
    one = spec(1, log, "impure_twice")
    ends: list[object] = []

    def drive(wanted: ShardSpec) -> None:
        try:
            ends.append(make_shards([wanted], place, several()))
        except DisputedError as e:
            ends.append(e)

    threads = [threading.Thread(target=drive, args=(s,)) for s in (one, one)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(isinstance(end, DisputedError) for end in ends)
    with pytest.raises(DisputedError):
        make_shards([one], place, processes(place))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_driver(store_uri: str, log: Path, where: str, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.sharding.driver", store_uri, str(log), "4", "0", "stubborn"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = wait_until(lambda: len(p := list(log.parent.glob("pid-*"))) == 2 and p, 60, "two shards are being made")
        workers = [int(path.name.removeprefix("pid-")) for path in found]
        driver.send_signal(how)
        driver.wait(limit(30))
    finally:
        driver.kill()
        driver.wait()
    wait_until(lambda: not any(map(psutil.pid_exists, workers)), 30, "the workers have ended")


def run_driver(store_uri: str, log: Path, shards: int, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sharding.driver", store_uri, str(log), str(shards), str(pause)]
    (log.parent / "content").mkdir(exist_ok=True)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_drivers_at_once_make_the_same_artifact(store_uri: str, log: Path, where: str) -> None:
    drivers = [run_driver(store_uri, log, 8, 0.1) for _ in range(2)]
    ends = [driver.communicate() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], ends
    assert len({out.splitlines()[-1] for out, _ in ends}) == 1
    assert set(calls(log)) == set(range(8)) and len(calls(log)) <= 16
