"""What goes wrong with accounts, credit, rates, and with control hosts of which there are too many."""

from __future__ import annotations

import shutil
import time
from typing import Any

from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.names import RentalName
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Fault, once
from tests.renting.faults.stage import KEEPER_BOUND, NAME_BOUND, Stage, case


@case(20)
def too_many_requests_by_others(stage: Stage) -> None:
    """Somebody else uses up the rate: every third answer is 429."""
    verbs: tuple[Any, ...] = ("list", "terminate", "keys", "balance")
    chain = stage.chain(*(Fault(verb, "429 with Retry-After", chance=0.35) for verb in verbs))
    chain.order()
    chain.settle()
    stage.allowed = 300


@case(20)
def a_keeper_a_person_and_a_reaper_at_once(stage: Stage) -> None:
    """All share one file: not one request comes too soon."""
    from aquarat_pipeline.renting.clouds.cloud import connect
    from aquarat_pipeline.renting.reaper import reap

    chain = stage.chain()
    chain.order()
    others = [connect(chain.account, chain.surroundings) for _ in range(2)]
    while not chain.only().final:
        chain.turn(20)
        for other in others:
            other.offers()
            reap(other, [chain.ledger.installation()], chain.now())
    chain.settle()


@case(23, kinds=["hyperbolic"])
def credit_that_is_too_little(stage: Stage) -> None:
    chain = stage.chain(credit_cents=50)
    chain.order(hours=1)
    chain.settle()
    assert chain.only().state == "refused" and "add credit" in chain.said() and not chain.fake.machines


@case(23, kinds=["hyperbolic"])
def credit_that_somebody_else_uses_up(stage: Stage) -> None:
    """What runs is ended before the credit is; if that is too late, all stops, and the bill with it."""
    chain = stage.chain(credit_cents=700)
    chain.order(hours=2)
    chain.until("ready")
    for _ in range(2):
        chain.stranger("their-host")
    chain.settle()
    assert chain.only().state == "gone" and ("lost" in chain.said() or "only lasts for" in chain.said())
    assert chain.clock.now() < chain.fake.started + 2 * 3600


@case(27)
def caps_that_are_reached(stage: Stage) -> None:
    """What is spent, promised and unclear counts at the moment of each request."""
    chain = stage.chain(once("rent", "then 500"))
    price = chain.order(hours=1).order.offer.price_micros
    cap = Money(price * 2 + price // 2)
    chain.config = RentConfig.model_validate(
        {"accounts": {stage.kind: {"cloud": stage.kind, "per_day": str(cap.micros / 1_000_000), "max_rentals": 9}}}
    )
    for _ in range(3):
        chain.order(hours=1)
        chain.turn()
    chain.settle()
    refused = [one for one in chain.rentals() if one.state == "refused"]
    assert len(refused) == 2 and "a day" in refused[0].events[-1].why and len(chain.fake.machines) == 2


@case(31)
def two_keepers_at_once(stage: Stage) -> None:
    chain = stage.chain(once("rent", "then 500"))
    other = chain.started()
    chain.order()
    chain.order(hours=0.3)
    while not all(one.final for one in chain.rentals()) or chain.alive():
        chain.turn(3)
        chain.turn(7, other)
        assert chain.clock.now() < chain.fake.started + 3 * 3600
    assert len(chain.fake.machines) == 2


@case(31, each=["before it was asked", "before the answer", "without the order"])
def a_ledger_from_a_backup(stage: Stage, when: str) -> None:
    """The provider's list wins over the ledger: nothing is asked for twice, and nothing runs for ever."""
    chain = stage.chain(timing=Timing(list_lag=0))
    rental = chain.order(hours=0.5)
    chain.until("ready")
    events = chain.ledger.folder(rental.id) / "events"
    if when == "without the order":
        shutil.rmtree(chain.ledger.folder(rental.id))
    else:
        for path in sorted(events.iterdir())[1 if when == "before the answer" else 0 :]:
            path.unlink()
    chain.keeper, chain.ledger = chain.started(), type(chain.ledger)(chain.home)
    if when != "without the order":
        chain.settle()
        assert len(chain.fake.machines) == 1
        return
    chain.order(hours=0.5)
    (machine,) = chain.fake.machines
    end = RentalName(chain.ledger.installation(), rental.id, rental.order.last_end).end
    while machine.alive(chain.clock.now()):
        chain.turn()
        assert chain.clock.now() < end + NAME_BOUND
    assert len(chain.fake.machines) == 1 and any("not in the ledger" in note for note in chain.notes)
    stage.allowed = NAME_BOUND
    chain.settle()


@case(31)
def a_backup_and_a_list_that_lags(stage: Stage) -> None:
    """The one way to send an order twice: a ledger that forgot it, while lists do not show it yet. One of both ends."""
    chain = stage.chain(timing=Timing(list_lag=100))
    rental = chain.order(hours=0.5)
    chain.turn()
    for path in (chain.ledger.folder(rental.id) / "events").iterdir():
        path.unlink()
    chain.keeper, chain.ledger = chain.started(), type(chain.ledger)(chain.home)
    chain.turn()
    made = len(chain.fake.machines)
    assert made == (1 if stage.kind == "gce" else 2)
    chain.fake.requests[:] = [one for one in chain.fake.requests if one[0] != "rent"]
    chain.run(lambda: len(chain.alive()) <= 1, 1200)
    chain.settle()


@case(10)
def three_of_five_hundred(stage: Stage) -> None:
    """A turn among many instances of others takes no more than a second."""
    # Others use the same credit, of which there must be enough.
    chain = stage.chain(**({"credit_cents": 10**9} if stage.kind == "hyperbolic" else {}))
    for number in range(497):
        chain.stranger(f"their-{number}")
    chain.config = RentConfig.model_validate({"accounts": {stage.kind: {"cloud": stage.kind, "max_rentals": 3}}})
    for _ in range(3):
        chain.order(hours=0.4)
    chain.run(lambda: all(one.state == "ready" for one in chain.rentals()), 1200)
    chain.clock.advance(60)
    began = time.monotonic()
    chain.turn()
    stage.turn_seconds = time.monotonic() - began
    chain.settle()


@case(4, 30)
def a_new_keeper_for_every_turn(stage: Stage) -> None:
    """Nothing that matters is only remembered."""
    chain = stage.chain(Fault("rent", "then cut", calls=(1,)))
    rental = chain.order(hours=0.5)
    while not chain.only().final:
        chain.keeper = chain.started()
        chain.turn(20)
        assert chain.clock.now() < rental.order.last_end + KEEPER_BOUND + 300
    chain.settle()
