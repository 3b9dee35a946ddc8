"""What goes wrong when a provider is asked what there is."""

from __future__ import annotations

from aquarat_pipeline.renting.names import RentalName
from aquarat_pipeline.renting.reaper import reap
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, Fault, always, once
from tests.renting.faults.stage import REAPER_SECONDS, Stage, case

API = ("lambda", "hyperbolic")
NO_LIST: tuple[Effect, ...] = ("500", "html 200", "cut", "429 with Retry-After", "401 html", "redirect")


@case(9, each=NO_LIST)
def a_failed_list_proves_nothing(stage: Stage, effect: Effect) -> None:
    """Neither that an instance is absent, nor that it has ended."""
    fault = Fault("list", effect, between=(0, 1200))
    chain = stage.chain(once("rent", "then 500"), fault, timing=Timing(listed_after_end=0))
    chain.order(hours=0.3)
    while chain.clock.now() < chain.fake.started + 1150:
        chain.turn(20)
        assert chain.only().state in ("intended", "asking", "unclear"), "a list that failed proved something"
    chain.fake.script.add(Fault("list", effect, chance=0.4))
    chain.settle()


@case(9, each=["empty", "first half"])
def a_short_list_ends_no_work(stage: Stage, effect: Effect) -> None:
    """An answer that lacks a host with which the keeper speaks: the host goes on."""
    if stage.kind == "gce" and effect == "first half":
        effect = "empty"
    hosts = stage.hosts(runs={"run": 1})
    chain = stage.chain(hosts=hosts)
    chain.order(hours=1, managed=True)
    chain.until("ready")
    since = chain.clock.now() - chain.fake.started
    chain.fake.script.add(Fault("list", effect, between=(since, since + 900)))
    while chain.clock.now() < chain.fake.started + since + 1000:
        chain.turn()
        assert chain.only().state == "ready" and chain.alive(), chain.said()
    chain.settle()


@case(9, each=["empty", "first half"])
def a_short_list_is_no_proof_for_ever(stage: Stage, effect: Effect) -> None:
    """Whatever was concluded from it: what is listed again must end."""
    if stage.kind == "gce" and effect == "first half":
        effect = "empty"
    chain = stage.chain(Fault("terminate", "without effect", between=(0, 1800)))
    chain.order(hours=0.2)
    chain.until("ready")
    chain.fake.script.add(Fault("list", effect, between=(700, 1500)))
    stage.allowed = 1800
    chain.settle()


@case(9, kinds=["gce"])
def pages_and_zones(stage: Stage) -> None:
    chain = stage.chain()
    chain.fake.pages_of = 1
    strangers = [chain.stranger(f"their-{number}") for number in range(3)]
    rental = chain.order()
    chain.until("ready")
    chain.fake.unreachable = ["zones/us-central1-a"]
    for _ in range(12):
        chain.turn(20)
    assert chain.only().state == "ready" and "no answer about" in " ".join(chain.notes)
    chain.fake.unreachable = []
    chain.settle()
    assert rental.id == chain.only().id and all(one.end_asked is None for one in strangers)


def _strangers(ours: str, over: int) -> list[str]:
    other = "zzzzzz" if ours != "zzzzzz" else "yyyyyy"
    name = str(RentalName(ours, "abcdefgh", over))
    return [str(RentalName(other, "abcdefgh", over)), f"{name}-2", f"x{name}", f"aq-{ours}1-abcdefgh-000000",
            "aquarat-train", f"aq-{ours}"]  # fmt: skip


@case(10, 34)
def names_that_only_look_like_ours(stage: Stage) -> None:
    chain = stage.chain()
    over = int(chain.now()) - 9999
    for name in _strangers(chain.ledger.installation(), over):
        chain.stranger(name)
    if stage.kind != "gce":
        chain.stranger(None)
    chain.order()
    chain.until("ready")
    for _ in range(3):
        found = reap(chain.cloud, [chain.ledger.installation()], chain.now())
        assert not found.asked and found.ours == 1 and found.foreign == len(chain.foreign)
        chain.clock.advance(REAPER_SECONDS)
    chain.settle()


@case(34)
def two_installations_on_one_account(stage: Stage) -> None:
    """Each sees the other's hosts, and ends its own only."""
    first = stage.chain()
    second = stage.beside(first.fake)
    first.order(hours=0.3)
    second.order(hours=0.8)
    for _ in range(200):
        first.turn(10)
        second.turn(10)
        reap(first.cloud, [first.ledger.installation()], first.now())
        if first.only().final:
            break
    assert first.only().state == "gone" and second.only().state == "ready" and second.alive()
    second.settle()


@case(19, each=["403 html", "403 error code 1010"])
def the_edge_speaks_and_not_the_provider(stage: Stage, effect: Effect) -> None:
    """On an order it is unclear, elsewhere it proves nothing, and nowhere is it taken for a bad key."""
    chain = stage.chain(once("rent", effect), Fault("list", effect, chance=0.3), once("terminate", effect))
    chain.order()
    chain.settle()
    assert chain.only().state == "absent" and not any("look at the key" in note for note in chain.notes)
    second = chain.order(hours=0.3)
    chain.run(lambda: chain.ledger.read(second.id).final)
    assert chain.ledger.read(second.id).state == "gone"


@case(24, kinds=["hyperbolic", "gce"])
def times_that_nobody_can_read(stage: Stage) -> None:
    chain = stage.chain(always("list", "odd time"))
    chain.order()
    chain.settle()
    assert chain.only().state == "gone" and "ready" in [event.state for event in chain.only().events]


@case(24, each=[3600, -3600, 31 * 86400])
def a_clock_that_jumps(stage: Stage, jump: int) -> None:
    """While a host runs. It ends by the new clock, and later by the right one at most by the jump."""
    chain = stage.chain()
    chain.order(hours=2)
    chain.until("ready")
    chain.offset += jump
    stage.slack_seconds, stage.allowed = abs(jump), max(-jump, 0)
    chain.settle(limit=5 * 3600)
    due = chain.fake.started + 7200 - min(jump, 7200)
    assert chain.clock.now() < due + 600 or jump > 7200


@case(24, each=[3600, -3600])
def a_clock_that_is_wrong_from_the_beginning(stage: Stage, off: int) -> None:
    """Names would hold wrong ends: nothing is rented before it is set."""
    chain = stage.chain()
    chain.offset = off
    chain.order(hours=2)
    chain.settle(limit=5 * 3600)
    told = f"60 min {'ahead of' if off > 0 else 'behind'}"
    assert chain.only().state == "refused" and told in chain.said() and not chain.fake.machines


@case(33, each=["new status", "extra fields", "empty ip"])
def what_a_newer_provider_says(stage: Stage, effect: Effect) -> None:
    chain = stage.chain(always("list", effect))
    chain.order(hours=0.5)
    chain.settle()
    ready = "ready" in [event.state for event in chain.only().events]
    assert ready == (effect == "extra fields") and chain.only().state == "gone"


@case(33, kinds=API)
def a_record_that_cannot_be_read(stage: Stage) -> None:
    """It is neither ready nor gone, and ends with its time."""
    chain = stage.chain(Fault("list", "a record without status", between=(0, 3000)))
    chain.order(hours=0.5)
    chain.until("ending")
    assert chain.only().address is None
    chain.settle()


@case(33, kinds=API)
def a_record_without_id_and_name(stage: Stage) -> None:
    """Then no list is complete: nothing is absent, and nothing new is rented."""
    chain = stage.chain(Fault("list", "a record without id and name", between=(0, 600)))
    chain.stranger("their-host")
    chain.order()
    for _ in range(10):
        chain.turn(20)
    assert not any(verb == "rent" for verb, _ in chain.fake.requests)
    chain.settle()


@case(33, kinds=["lambda", "hyperbolic"])
def a_name_that_did_not_stay(stage: Stage) -> None:
    """Without it no other reaper could end the instance: it is unfit."""
    chain = stage.chain(always("list", "no name"))
    chain.order(hours=4)
    chain.settle(limit=1800)
    assert "did not keep its name" in chain.said()
