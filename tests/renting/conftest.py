"""Fake clouds and the clients that speak with them, on one clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import settings

from aquarat_pipeline.renting import keeping
from aquarat_pipeline.renting.clouds.cloud import Cloud, Surroundings, connect
from aquarat_pipeline.renting.clouds.model import Instance, Order
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.names import RentalName, new_rental
from tests.renting.fakes.clock import FakeClock
from tests.renting.fakes.compute_api import FakeComputeEngine
from tests.renting.fakes.hyperbolic_api import FakeHyperbolic
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Fault, Script
from tests.renting.fakes.server import KEY, FakeCloud
from tests.renting.faults.control_host import PUBLIC_KEY, account_of, surroundings_of

# The same cases in every run, and however long they take.
settings.register_profile("renting", deadline=None, derandomize=True, database=None)
settings.load_profile("renting")

INSTALLATION = "abc123"
F = TypeVar("F", bound=FakeCloud)


@dataclass
class World(Generic[F]):
    """A fake cloud and a client of ours."""

    fake: F
    cloud: Cloud
    clock: FakeClock

    def order(self, hours: float = 8, **fields: Any) -> Order:
        name = RentalName(INSTALLATION, new_rental(), int(self.clock.now() + hours * 3600))
        key = self.cloud.ensure_ssh_key(f"aquarat-{INSTALLATION}", PUBLIC_KEY)
        return Order(str(name), name.end, key, PUBLIC_KEY, **fields)

    def rent(self, type: str | None = None, **fields: Any) -> tuple[Order, str]:
        """Rents what is there, or this type. The order and the instance's id."""
        offer = next(
            one for one in self.cloud.offers() if one.available in ("yes", "unknown") and type in (None, one.type)
        )
        order = self.order(**fields)
        made = self.cloud.rent(offer, order)
        return order, made.id

    def the_only(self) -> Instance:
        listing = self.cloud.list()
        assert listing.complete
        [instance] = listing.instances
        return instance


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def surroundings(clock: FakeClock, tmp_path: Path) -> Surroundings:
    return surroundings_of(tmp_path, clock.now, clock.sleep)


class Worlds:
    """Makes worlds; each is checked when the test ends."""

    def __init__(self, clock: FakeClock, surroundings: Surroundings, stack: ExitStack) -> None:
        self.clock = clock
        self.surroundings = surroundings
        self._stack = stack
        self._fakes: list[FakeCloud] = []

    def of_lambda(self, *faults: Fault, **settings: Any) -> World[FakeLambda]:
        return self._made(FakeLambda(self.clock, Script(list(faults)), **settings), "lambda")

    def of_hyperbolic(self, *faults: Fault, **settings: Any) -> World[FakeHyperbolic]:
        return self._made(FakeHyperbolic(self.clock, Script(list(faults)), **settings), "hyperbolic")

    def of_compute(self, *faults: Fault, **settings: Any) -> World[FakeComputeEngine]:
        return self._made(FakeComputeEngine(self.clock, Script(list(faults)), **settings), "gce")

    def of(self, kind: str, *faults: Fault, **settings: Any) -> World[Any]:
        return {"lambda": self.of_lambda, "hyperbolic": self.of_hyperbolic, "gce": self.of_compute}[kind](
            *faults, **settings
        )

    def _made(self, fake: F, kind: str) -> World[F]:
        self._stack.enter_context(fake.serve())
        self._fakes.append(fake)
        return World(fake, connect(account_of(kind, fake.address), self.surroundings), self.clock)

    def check(self) -> None:
        for fake in self._fakes:
            assert fake.complaints == [], "the client sent what the API does not know"
            assert fake.too_fast == 0, "the client asked more often than it may"


@pytest.fixture
def worlds(clock: FakeClock, surroundings: Surroundings) -> Iterator[Worlds]:
    with ExitStack() as stack:
        made = Worlds(clock, surroundings, stack)
        yield made
        made.check()


@pytest.fixture
def fake() -> Iterator[FakeLambda]:
    clock: Any = SimpleNamespace(now=time.time)
    # Requests that leave a second apart can arrive with less between them: in real time, half of that is too fast.
    with FakeLambda(clock, timing=Timing(boot=1, ending=1), every=0.5).serve() as fake:
        assert isinstance(fake, FakeLambda)
        yield fake
        assert fake.complaints == [] and fake.too_fast == 0


@pytest.fixture
def home(fake: FakeLambda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    (path / "rent.yaml").write_text(
        f"accounts:\n  mine: {{cloud: lambda, address: '{fake.address}', per_day: 3}}\n"
        "pools:\n  small:\n    from: [{account: mine, types: ['gpu_1x_*']}]\n"
        "    max_price_per_hour: 1.00\n    hours: 2\n"
    )
    monkeypatch.setenv("DAGSTER_HOME", str(path))
    monkeypatch.setenv("LAMBDA_API_KEY", KEY)
    monkeypatch.delenv("HYPERBOLIC_API_KEY", raising=False)
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path))
    monkeypatch.setenv("AQUARAT_STORE", "gs://bucket/store")
    return path


@pytest.fixture
def unkept(home: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The ledger, with a keeper that never comes."""

    def never(_: Path) -> bool:
        return False

    monkeypatch.setattr(keeping, "start", never)
    return Ledger(home)
