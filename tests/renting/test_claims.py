"""Orders and ends under faults of any kind at any time: what the client claims is true of the cloud."""

from __future__ import annotations

import random

import pytest

from aquarat_pipeline.renting.clouds.model import Granted, Instance, OutcomeUnknown, Refused, Unauthorized, Unavailable
from aquarat_pipeline.renting.names import parse
from tests.renting.conftest import INSTALLATION, World, Worlds
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, Fault, Script
from tests.renting.fakes.server import KEY

pytestmark = pytest.mark.slow
STEPS = 12
ANY: tuple[Effect, ...] = (
    "500", "503", "504", "429", "429 with Retry-After", "401 html", "403 html", "403 error code 1010", "redirect",
    "cut", "html 200", "unknown code", "provider error", "not the provider's form", "then 500", "then 429",
    "then 504", "then cut", "then half an answer", "then html", "then broken json",
)  # fmt: skip


def order_one(world: World) -> None:
    """Orders, and compares what comes of it with the machines that are there."""
    offers = [one for one in world.cloud.offers() if one.available in ("yes", "unknown")]
    try:
        order = world.order()
    except Unavailable:
        return  # no ssh key, no order
    before = len(world.fake.machines)
    try:
        made: Instance | Granted | None = world.cloud.rent(random.Random(before).choice(offers), order)
    except Refused:
        made = None
        assert len(world.fake.machines) == before, "a refusal is definite"
    except OutcomeUnknown as e:
        made = Granted(e.instance_id) if e.instance_id else None
    new = world.fake.machines[before:]
    assert len(new) <= 1 and all(one.name == order.name for one in new)
    if made is not None:
        assert [one.id for one in new] == [made.id], "an id is that of the new machine"


def end_all_of_ours(world: World) -> None:
    for instance in world.cloud.list().instances:
        name = parse(instance.name)
        if name is not None and name.installation == INSTALLATION:
            world.cloud.terminate(instance.id)


@pytest.mark.parametrize("kind", ["lambda", "hyperbolic"])
@pytest.mark.parametrize("seed", range(25))
def test_claims_hold(worlds: Worlds, kind: str, seed: int) -> None:
    chosen = random.Random(seed)
    timing = Timing(boot=chosen.choice([0, 60, 600]), list_lag=chosen.choice([0, 30]), ending=chosen.choice([0, 30]))
    verbs = ("offers", "rent", "list", "terminate", "keys")
    faults = [Fault(verb, chosen.choice(ANY), chance=0.15) for verb in verbs for _ in range(3)]
    world = worlds.of(kind, *faults, timing=timing)
    world.fake.script = Script(faults, seed)
    stranger = world.fake.order("aq-abc1234-not-ours")
    for _ in range(STEPS):
        try:
            chosen.choice((order_one, order_one, end_all_of_ours))(world)
        except (Unavailable, Unauthorized) as e:
            assert KEY not in str(e)
        world.clock.advance(chosen.choice([0, 20, 300]))

    world.fake.script.faults.clear()
    for _ in range(3):
        world.clock.advance(60)
        end_all_of_ours(world)
    world.clock.advance(60)
    assert world.fake.alive() == [stranger], "all of ours can be ended by their names, and nothing else was"
