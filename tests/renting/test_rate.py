"""The rate that all processes of a user share."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import stat
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from aquarat_pipeline.renting.clouds.model import Rate
from aquarat_pipeline.renting.clouds.rate import RateLimit, Use
from tests.patience import limit
from tests.renting.fakes.clock import FakeClock

RATE = Rate(every=1.0, rent_every=12.0)
KEY = "secret-canary-5a1d"


def limit_of(folder: Path, clock: FakeClock, key: str = KEY, rate: Rate = RATE) -> RateLimit:
    return RateLimit(folder, "lambda", key, rate, clock.now, clock.sleep)


def test_requests_are_a_second_apart(tmp_path: Path, clock: FakeClock) -> None:
    one, other = limit_of(tmp_path, clock), limit_of(tmp_path, clock)
    began = clock.now()
    for limit_ in (one, other, one, other):
        assert limit_.enter("list")
    assert 3.0 <= clock.now() - began <= 3.5


def test_orders_are_twelve_seconds_apart_and_hold_nobody_up(tmp_path: Path, clock: FakeClock) -> None:
    shared = limit_of(tmp_path, clock)
    began = clock.now()
    assert shared.enter("rent") and shared.enter("list")
    assert clock.now() - began <= 1.5
    assert shared.enter("rent")
    assert clock.now() - began >= 12


def test_keys_and_clouds_have_rates_of_their_own(tmp_path: Path, clock: FakeClock) -> None:
    began = clock.now()
    assert limit_of(tmp_path, clock).enter("list") and limit_of(tmp_path, clock, "another").enter("list")
    assert clock.now() == began


def test_the_file_tells_nothing_of_the_key(tmp_path: Path, clock: FakeClock) -> None:
    limit_of(tmp_path / "rates", clock).enter("list")
    [file] = (tmp_path / "rates").iterdir()
    assert KEY not in file.name + file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("order", list(itertools.permutations(["offers", "list", "rent", "terminate"])))
def test_what_ends_something_goes_first(tmp_path: Path, order: tuple[Use, ...]) -> None:
    """All four wait in this order, and go in that of their importance."""
    clock = FakeClock()
    shared = limit_of(tmp_path, clock, rate=Rate(1.0, 1.0))
    assert shared.enter("list")
    went: list[Use] = []
    # Each turn lets time pass only when all four have looked, as if they ran at the same time.
    barrier = threading.Barrier(4, action=lambda: clock.advance(0.25))
    done = threading.Event()

    def wait(use: Use, delay: int) -> None:
        mine = RateLimit(tmp_path, "lambda", KEY, Rate(1.0, 1.0), clock.now, lambda _: void(barrier.wait(limit(20))))
        assert mine.enter(use, patience=1000)
        went.append(use)
        while len(went) < 4 and not done.is_set():
            barrier.wait(limit(20))
        done.set()
        barrier.abort()

    def run(use: Use, delay: int) -> None:
        try:
            wait(use, delay)
        except threading.BrokenBarrierError:
            return

    threads = [threading.Thread(target=run, args=(use, n)) for n, use in enumerate(order)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit(30))
    assert went == ["terminate", "rent", "list", "offers"]


def void(_: object) -> None:
    return None


def test_whoever_died_while_waiting_is_passed_over(tmp_path: Path, clock: FakeClock) -> None:
    shared = limit_of(tmp_path, clock)
    shared.enter("list")
    [file] = tmp_path.iterdir()
    content = json.loads(file.read_text())
    content["waiting"] = [{"id": "dead", "use": "terminate", "since": clock.now(), "seen": clock.now()}]
    file.write_text(json.dumps(content))
    began = clock.now()
    assert shared.enter("list")
    assert 5.0 <= clock.now() - began < 6.0


def test_who_waits_too_long_gives_up_and_leaves_the_line(tmp_path: Path, clock: FakeClock) -> None:
    shared = limit_of(tmp_path, clock)
    shared.pause(50)
    assert not shared.enter("rent", patience=10)
    [file] = tmp_path.iterdir()
    assert json.loads(file.read_text())["waiting"] == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"free": "x"}', '{"free": 0, "rent_free": 0, "waiting": [{}]}', "null"]
)
def test_a_broken_file_is_begun_again(tmp_path: Path, clock: FakeClock, content: str) -> None:
    shared = limit_of(tmp_path, clock)
    shared.enter("list")
    [file] = tmp_path.iterdir()
    file.write_text(content)
    assert shared.enter("terminate")


def test_a_clock_that_was_set_back_stops_nobody(tmp_path: Path, clock: FakeClock) -> None:
    limit_of(tmp_path, clock).enter("rent")
    earlier = FakeClock(clock.now() - 3600)
    began = earlier.now()
    assert limit_of(tmp_path, earlier).enter("terminate", patience=120)
    assert earlier.now() - began <= 61


def test_a_pause_is_at_most_a_minute(tmp_path: Path, clock: FakeClock) -> None:
    shared = limit_of(tmp_path, clock)
    shared.pause(10**9)
    began = clock.now()
    assert shared.enter("terminate", patience=120)
    assert 59 <= clock.now() - began <= 61


def test_without_a_place_for_the_file_a_process_paces_itself(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").write_text("")
    shared = limit_of(tmp_path / "file" / "rates", clock)
    began = clock.now()
    assert shared.enter("terminate") and shared.enter("terminate")
    assert clock.now() - began >= 1


def _enter_often(folder: Path, count: int) -> list[float]:
    shared = RateLimit(folder, "lambda", KEY, Rate(0.05, 0.05), time.time, time.sleep)
    times: list[float] = []
    for _ in range(count):
        assert shared.enter("list", patience=limit(60))
        times.append(time.time())
    return times


def test_processes_share_it(tmp_path: Path) -> None:
    # A Pool kills its workers when it ends, and once waited for ever for one of them.
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        times = sorted(itertools.chain(*pool.map(_enter_often, [tmp_path] * 3, [8] * 3)))
    # What a process notes down comes a little after its turn: the whole is what counts.
    assert times[-1] - times[0] >= 0.05 * 22
