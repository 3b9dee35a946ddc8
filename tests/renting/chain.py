"""The whole chain in miniature: a control host with Dagster, a fake Lambda whose instances are real hosts, a bucket.

The keeper is a process, hosts are reached over ssh, prepared, and train a toy checkpoint under torchrun. Tests and
`./run bench renting` drive it alike.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy
import yaml

from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.renting import keeping
from aquarat_pipeline.renting.costs import accrued
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.rental import Rental
from tests.folders import contents_below
from tests.launching.cluster_fixture import Cluster
from tests.launching.network import Network
from tests.launching.small_checkout import small_checkout
from tests.patience import limit, wait_until
from tests.renting.fakes.clock import WallClock
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.machines import Machine, Timing
from tests.renting.fakes.server import KEY
from tests.renting.fleet import Guest, NetworkFleet

POOL = "tiny"
ASSET = "sft_checkpoint"
PACKAGES = Path(numpy.__file__).parents[1]
"""Where the trainer finds this environment's packages: those of the small lock are empty."""
PROFILE = """
name: rented
description: The demo with one GPU a stage.
extends: demo
sft_checkpoint:
  launch: {nproc: 1, device: cuda}
"""
SHORT = Timing(boot=0.5, ending=2)


class Chain:
    """Everything that a user of rented hosts has, and the cloud."""

    def __init__(self, folder: Path, network: Network, fake: FakeLambda, fleet: NetworkFleet) -> None:
        self.folder = folder
        self.network, self.fake, self.fleet = network, fake, fleet
        nothing, profile = folder / "nothing", folder / "profile.yaml"
        # What the user's own ssh knows must not help.
        nothing.touch()
        profile.write_text(PROFILE)
        environment = {
            **network.environment,
            "AQUARAT_SSH_CONFIG": str(nothing),
            "AQUARAT_PROFILE": str(profile),
            "LAMBDA_API_KEY": KEY,
        }
        self.cluster = Cluster(folder / "cluster", store=network.store_uri, env=environment)
        self.home = self.cluster.home
        self.ledger = Ledger(self.home)
        self._keepers: list[subprocess.Popen[bytes]] = []

    def configure(self, types: tuple[str, ...] = ("gpu_1x_a10",), **limits: float) -> None:
        """Writes rent.yaml: the pool is rented from automatically."""
        pool = {
            "from": [{"account": "lambda", "types": [*types]}],
            "max_price_per_hour": 2,
            "hours": 0.5,
            "idle_minutes": 0.2,
            "automatic": True,
            "env": {"PYTHONPATH": f"{REPO_ROOT}:{PACKAGES}"},
        }
        account = {"cloud": "lambda", "address": self.fake.address, "per_day": 100, "max_rentals": 3}
        settings = {
            "accounts": {"lambda": account},
            "pools": {POOL: pool},
            "limits": {"wait_minutes": 0, "drain_minutes": 0.1, "lost_minutes": 0.2, **limits},
        }
        (self.home / "rent.yaml").write_text(yaml.safe_dump(settings))

    # --- the keeper --------------------------------------------------------------------------------------------------

    def start_keeper(self) -> None:
        """It is at work at return, unless another one is: then it takes over when that one dies."""
        self._keepers.append(
            self._python("keeper.log", "-m", "tests.renting.keeper_program", str(self.folder / "checkout"))
        )
        wait_until(lambda: keeping.is_alive(self.home), 60, "a keeper is at work")

    def kill_keeper(self) -> None:
        """The oldest one."""
        keeper = self._keepers.pop(0)
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()

    def aquarat(self, *arguments: str) -> str:
        """What `aquarat` prints, as a user calls it."""
        command = [sys.executable, "-m", "aquarat_core.cli", *arguments]
        done = subprocess.run(
            command, env=self._environment(), cwd=REPO_ROOT, capture_output=True, text=True, timeout=limit(60)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _python(self, log: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, *command],
                env=self._environment(), cwd=REPO_ROOT, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.cluster.environment}

    # --- looking -----------------------------------------------------------------------------------------------------

    def rentals(self) -> tuple[Rental, ...]:
        return self.ledger.load().rentals

    def ours(self) -> list[Machine]:
        return [machine for machine in self.fake.machines if (machine.name or "").startswith("aq-")]

    def story(self) -> str:
        """What happened, for the message of a test that fails."""
        lines = [
            f"{event.at:.1f} {rental.id} {event.state} {event.why}"
            for rental in self.rentals()
            for event in rental.events
        ]
        log = self.folder / "keeper.log"
        return "\n".join([*lines, log.read_text()[-4000:] if log.exists() else ""])

    def until_gone(self, seconds: float = 120) -> tuple[Rental, ...]:
        """All rentals, once each is gone by proof."""
        self.wait(lambda: all(rental.final for rental in self.rentals()), seconds, "all rentals are gone")
        return self.rentals()

    def wait(self, what: Any, seconds: float, why: str) -> Any:
        try:
            return wait_until(what, seconds, why, pause=0.2)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.story()}") from None

    def check(self) -> None:
        """Nothing of ours is alive, others are untouched, and the ledger counts the bill."""
        assert self.fake.complaints == [] and self.fake.too_fast == 0 and self.fleet.complaints == []
        now = time.time()
        alive = {machine.name for machine in self.fake.alive()}
        assert not alive & {machine.name for machine in self.ours()}, "an instance of ours is alive"
        assert all(machine.end_asked is None for machine in self.fake.machines if machine not in self.ours())
        told = json.loads(self.aquarat("hosts", "cost", "--json"))
        billed = sum(machine.bill(now, self.fake.from_running, self.fake.step) for machine in self.ours())
        counted = sum(accrued(rental, now).micros for rental in self.rentals())
        assert told["total_micros"] == counted
        # The ledger counts until the list that shows the end, so it may count one more begun minute.
        steps = sum(rental.hourly.micros // 60 for rental in self.rentals())
        assert billed <= counted <= billed + steps, (billed, counted)
        log = self.folder / "keeper.log"
        for path, text in {**contents_below(self.home / "aquarat"), log: log.read_bytes()}.items():
            assert KEY.encode() not in text, f"{path} holds the account's key"

    def close(self) -> None:
        while self._keepers:
            self.kill_keeper()
        self.cluster.close()


def times(chain: Chain, rental: Rental, run_id: str) -> dict[str, float]:
    """Seconds from the order to each step of a rental and of the run that it served."""
    first: dict[str, float] = {}
    for event in rental.events:
        first.setdefault(event.state, event.at)
    marks = chain.cluster.times(run_id, ASSET)
    end = chain.cluster.instance.get_run_stats(run_id).end_time
    told = {
        "asked": first.get("asking"),
        "granted": first.get("granted"),
        "booted": rental.addressed,
        "reachable": first.get("reachable"),
        "fit": first.get("fit"),
        "ready": first.get("ready"),
        "first line": marks["first"],
        "last line": marks["last"],
        "run ends": end,
        "draining": first.get("draining"),
        "ending": first.get("ending"),
        "gone": first.get("gone"),
    }
    return {name: round(at - rental.order.ordered, 1) for name, at in told.items() if at is not None}


@contextmanager
def chain_in(folder: Path, guest: Guest | None = None, timing: Timing = SHORT) -> Iterator[Chain]:
    """A chain that is ready, with nothing rented. Needs root, as `network.why_not` says."""
    folder.mkdir(parents=True, exist_ok=True)
    small_checkout(folder)
    network = Network(folder / "network", 0)
    with ExitStack() as stack:
        stack.callback(network.close)
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "index")}
        usual = guest or Guest(env=pip)
        fleet = NetworkFleet(network, usual)
        fake = FakeLambda(WallClock(), timing=timing, fleet=fleet)
        stack.enter_context(fake.serve())
        before = {name: os.environ.get(name) for name in network.environment}
        # This process looks into the bucket too.
        os.environ.update(network.environment)
        stack.callback(
            lambda: [os.environ.pop(n) if v is None else os.environ.__setitem__(n, v) for n, v in before.items()]
        )
        chain = Chain(folder, network, fake, fleet)
        stack.callback(chain.close)
        chain.configure()
        chain.cluster.ready()
        yield chain
