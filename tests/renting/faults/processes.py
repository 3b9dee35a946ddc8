"""Keepers that are processes, in real time: killed by SIGKILL in the middle of a request, and measured at rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from aquarat_pipeline.renting import keeping
from aquarat_pipeline.renting.clouds.cloud import connect
from aquarat_pipeline.renting.costs import accrued
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.renting.requests import ask_end, new_order
from tests.folders import contents_below
from tests.patience import wait_until
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Verb
from tests.renting.fakes.server import KEY, CutOff, FakeCloud
from tests.renting.faults.control_host import CANARIES, FAKES, account_of, surroundings_of
from tests.renting.faults.many import fill

When = Literal["before", "after"]
POINTS: tuple[tuple[Verb, When], ...] = (
    ("list", "before"), ("list", "after"), ("keys", "after"), ("rent", "before"), ("rent", "after"),
    ("terminate", "before"), ("terminate", "after"),
)  # fmt: skip
"""Before the provider acts upon the first such request, and after that, before its answer."""


@dataclass
class Home:
    """A control host in real time, with a provider of its own."""

    folder: Path
    kind: str
    fake: FakeCloud

    def __post_init__(self) -> None:
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        self.ledger = Ledger(self.home)
        self.keepers: list[subprocess.Popen[bytes]] = []

    def order(self, hours: float = 1.0) -> Rental:
        account = account_of(self.kind, self.fake.address)
        cloud = connect(account, surroundings_of(self.folder, time.time, time.sleep))
        # What no list shows is given up sooner than a provider's lag would need: nobody waits for five minutes here.
        can = replace(cloud.capabilities, settle_seconds=20)
        offer = min((one for one in cloud.offers() if one.available != "no" and one.gpus), key=lambda one: one.price)
        given = (self.ledger.installation(), account, offer, can, time.time(), hours, hours, offer.price)
        self._rental = self.ledger.order(new_order(*given)).id
        return self.only()

    def start(self) -> subprocess.Popen[bytes]:
        """A keeper as `aquarat hosts rent` and the sensor start it."""
        environment = {
            **os.environ, "DAGSTER_HOME": str(self.home), "AQUARAT_CACHE": str(self.folder), "LAMBDA_API_KEY": KEY,
            "HYPERBOLIC_API_KEY": KEY,
        }  # fmt: skip
        with (self.folder / "keeper.log").open("ab") as out:
            keeper = subprocess.Popen(
                [sys.executable, "-m", keeping.__name__], env=environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=out,
            )  # fmt: skip
        self.keepers.append(keeper)
        return keeper

    def wait(self, what: Any, why: str) -> None:
        """Until something is so. A keeper that has died is followed by another, as the sensor sees to it."""

        def so() -> bool:
            if self.keepers[-1].poll() is not None:
                self.start()
            return bool(what())

        wait_until(so, 240, why, pause=0.5)

    def only(self) -> Rental:
        """The rental that was ordered last."""
        return self.ledger.read(self._rental)

    def close(self) -> None:
        for keeper in self.keepers:
            keeper.kill()
            keeper.wait()

    def check(self) -> None:
        rental = self.only()
        assert rental.final and not self.fake.alive() and self.fake.complaints == [] and self.fake.too_fast == 0
        asked = sum(verb == "rent" for verb, _ in self.fake.requests)
        assert asked == 1 and len(self.fake.machines) <= 1
        counted, billed = accrued(rental, time.time()).micros, self.fake.bill()
        assert counted >= billed, f"the provider bills {billed}, and the ledger knows {counted}"
        written = list(contents_below(self.folder).values())
        assert not any(secret.encode() in text for secret in CANARIES for text in written)


@contextmanager
def home(folder: Path, kind: str = "lambda", **timing: float) -> Iterator[Home]:
    clock: Any = SimpleNamespace(now=time.time)
    times = Timing(**{"boot": 1.0, "ending": 1.0, **timing})
    with FAKES[kind](clock, timing=times).serve() as fake:
        made = Home(folder, kind, fake)
        try:
            yield made
        finally:
            made.close()


def killed_in_requests(folder: Path, points: tuple[tuple[Verb, When], ...] = POINTS) -> int:
    """A keeper for each point, all at the same time, since they mostly wait. How many were killed."""
    with ExitStack() as stack:
        homes = [(stack.enter_context(home(folder / f"{verb}-{when}")), verb, when) for verb, when in points]
        failures: list[BaseException] = []
        killed: list[str] = []

        def live(one: Home, verb: Verb, when: When) -> None:
            try:
                _killed_once(one, verb, when)
                killed.append(verb)
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=live, args=one) for one in homes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return len(killed)


def _killed_once(one: Home, verb: Verb, when: When) -> None:
    one.order()
    keeper = one.start()
    done = threading.Event()

    def kill(asked: Verb, at: When) -> None:
        if (asked, at) != (verb, when) or done.is_set():
            return
        done.set()
        keeper.send_signal(signal.SIGKILL)
        keeper.wait()
        if at == "before":
            raise CutOff  # the request was lost with its sender

    one.fake.interfere = kill
    one.wait(lambda: one.only().state in ("ready", "absent", "refused"), "the host runs")
    if not one.only().final:
        ask_end(one.ledger, one.only(), "now", time.time())
        one.wait(lambda: one.only().final, "the host is gone")
    assert done.is_set(), f"no keeper was killed {when} {verb}"
    one.check()


@dataclass(frozen=True)
class Rest:
    """What a keeper needs when nothing changes."""

    core_share: float
    """Of one processor core."""
    requests_per_minute: float
    seconds: float


def at_rest(folder: Path, seconds: float = 90.0) -> Rest:
    """A real keeper with one host that runs, among rentals that are long gone."""
    with home(folder) as one:
        fill(one.ledger, 199)
        one.order(hours=12)
        one.start()
        one.wait(lambda: one.only().state == "ready", "the host runs")
        keeper = one.keepers[-1]
        before, requests, began = _cpu(keeper.pid), len(one.fake.requests), time.monotonic()
        time.sleep(seconds)
        spent = time.monotonic() - began
        assert keeper.poll() is None, "the keeper ended"
        return Rest(
            (_cpu(keeper.pid) - before) / spent, 60 * (len(one.fake.requests) - requests) / spent, spent
        )  # fmt: skip


def _cpu(pid: int) -> float:
    """Processor seconds of a process and its threads, in nanoseconds' precision."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
