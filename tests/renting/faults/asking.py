"""What goes wrong between an order and the instance that comes of it."""

from __future__ import annotations

from aquarat_pipeline.renting.ledger import Conflict
from aquarat_pipeline.renting.money import Money
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, always, once, times
from tests.renting.faults.stage import Stage, case

API = ("lambda", "hyperbolic")
"""Providers where each order makes an instance, whatever its name."""
LOST: tuple[Effect, ...] = (
    "then 500", "then 429", "then 504", "then cut", "then late", "then html", "then redirect", "then half an answer",
    "then broken json",
)  # fmt: skip


@case(1, each=LOST)
def made_but_not_answered(stage: Stage, effect: Effect) -> None:
    chain = stage.chain(once("rent", effect), timing=Timing(list_lag=60))
    chain.order()
    chain.settle()
    states = [event.state for event in chain.only().events]
    assert "granted" in states and states[-1] == "gone" and len(chain.fake.machines) == 1


@case(1, each=["500", "504", "cut", "late", "html 200", "429"])
def not_made_and_not_answered(stage: Stage, effect: Effect) -> None:
    chain = stage.chain(once("rent", effect))
    chain.order()
    chain.settle()
    assert chain.only().state == "absent" and not chain.fake.machines


@case(2)
def one_request_makes_two(stage: Stage) -> None:
    """A proxy repeated the request. Compute Engine obeys its id once."""
    chain = stage.chain(once("rent", "then twice"))
    chain.order()
    chain.until("ready")
    assert len(chain.alive()) == 1 and len(chain.fake.machines) == (1 if stage.kind == "gce" else 2)
    chain.settle()


@case(2, kinds=API)
def a_double_that_does_not_obey(stage: Stage) -> None:
    chain = stage.chain(once("rent", "then twice"), times("terminate", "without effect", 3))
    chain.order(hours=0.2)
    chain.settle()
    assert len(chain.fake.machines) == 2
    stage.allowed = 30 + 60 + 120


@case(3, each=[30, 120])
def listed_late(stage: Stage, lag: int) -> None:
    chain = stage.chain(once("rent", "then 500"), timing=Timing(list_lag=lag))
    chain.order()
    chain.settle()
    assert chain.only().state == "gone"


@case(3)
def listed_after_it_was_given_up(stage: Stage) -> None:
    """Later than any provider is known to list it: it must end at once, and was never asked for again."""
    chain = stage.chain(once("rent", "then 500"), timing=Timing(list_lag=700))
    chain.order()
    chain.until("absent")
    assert chain.only().instance_id is None
    chain.run(lambda: chain.only().state == "ending", 900)
    assert chain.fake.machines[0].ordered + 700 + 100 > chain.clock.now()
    chain.settle()


@case(3)
def an_answer_that_names_it_before_lists_do(stage: Stage) -> None:
    chain = stage.chain(timing=Timing(list_lag=120))
    chain.order()
    chain.until("granted")
    assert "lost" not in chain.said()
    chain.until("ready")
    chain.settle()


@case(12)
def an_id_that_does_not_exist(stage: Stage) -> None:
    """The order was granted, and what was granted is found by nobody."""
    chain = stage.chain(once("rent", "ghost"))
    chain.order()
    chain.settle()
    assert chain.only().state == "gone" and not chain.fake.machines and "lost" in chain.said()
    assert chain.clock.now() < chain.fake.started + 900


@case(21, kinds=API)
def the_price_rose_over_the_cap(stage: Stage) -> None:
    chain = stage.chain()
    rental = chain.order()
    chain.fake.granted_cents[rental.order.offer.type] = 999
    chain.settle()
    assert "costs $9.99 an hour" in chain.said() and chain.clock.now() < chain.fake.started + 600


@case(21, kinds=API)
def the_price_rose_under_the_cap(stage: Stage) -> None:
    """The bill counts the price that the instance got, and both are written down."""
    chain = stage.chain()
    rental = chain.order(max_price=Money.dollars(9))
    chain.fake.granted_cents[rental.order.offer.type] = 444
    chain.settle()
    ended = chain.only()
    assert "ready" in [event.state for event in ended.events]
    assert (ended.hourly, ended.order.offer.price_micros) == (Money.cents(444), rental.order.offer.price_micros)


@case(22, kinds=API)
def a_price_in_dollars_on_the_instance(stage: Stage) -> None:
    """A hundredth of the price is no price: the bill goes on counting what was offered."""
    chain = stage.chain(always("list", "price in dollars"))
    chain.order()
    chain.settle()
    assert chain.only().hourly.micros >= chain.only().order.offer.price_micros


@case(22, kinds=API)
def prices_in_dollars_on_the_offers(stage: Stage) -> None:
    chain = stage.chain(always("offers", "price in dollars"))
    chain.order()
    chain.settle()
    assert chain.only().state == "refused" and "unit of price may have changed" in chain.said()
    assert not chain.fake.machines


@case(26, kinds=API, each=["then 500 with id", "then 400 with id", "then 200 with errors"])
def an_error_that_names_an_instance(stage: Stage, effect: Effect) -> None:
    chain = stage.chain(once("rent", effect), timing=Timing(list_lag=90))
    chain.order()
    chain.turn()
    assert chain.only().state == "granted" and chain.only().instance_id == chain.fake.machines[0].id
    chain.settle()


@case(26, kinds=API)
def a_success_that_names_none(stage: Stage) -> None:
    chain = stage.chain(once("rent", "then no id"))
    chain.order()
    chain.settle()
    assert chain.only().state == "gone" and len(chain.fake.machines) == 1


@case(27, each=["no capacity", "quota"])
def refused(stage: Stage, effect: Effect) -> None:
    """Gone between the look and the order: the next order is another, and is not held up."""
    chain = stage.chain(once("rent", effect))
    chain.order()
    chain.run(lambda: chain.only().state == "refused", 60)
    last = chain.only().events[-1]
    assert (last.scope, bool(last.code)) == ("offer" if effect == "no capacity" else "account", True)
    second = chain.order()
    chain.run(lambda: chain.ledger.read(second.id).state == "ready", 600)
    chain.settle()


@case(32)
def a_name_is_never_used_twice(stage: Stage) -> None:
    chain = stage.chain(timing=Timing(ending=120))
    first = chain.order(hours=0.2)
    chain.until("ending")
    try:
        chain.ledger.order(first.order)
    except Conflict:
        pass
    else:
        raise AssertionError("an order of an old name was taken")
    second = chain.order(hours=0.2)
    assert second.name != first.name
    chain.settle()


@case(35, kinds=["lambda"])
def an_ssh_key_that_is_not_ours_has_our_name(stage: Stage) -> None:
    """Keys are compared, not names; a key that was deleted in the dashboard is registered again."""
    chain = stage.chain()
    name = f"aquarat-{chain.ledger.installation()}"
    for number in range(2):
        chain.fake.ssh_keys.append({"id": f"k{number}", "name": name, "public_key": "ssh-ed25519 BBBB other"})
    chain.order(hours=0.2)
    chain.until("ready")
    ours = [one for one in chain.fake.ssh_keys if one["public_key"].split()[1].startswith("AAAA")]
    assert [one["name"] for one in ours] == [f"{name}-2"] and chain.only().ssh_key == f"{name}-2"
    chain.settle()
    chain.fake.ssh_keys.clear()
    second = chain.order(hours=0.2)
    chain.run(lambda: chain.ledger.read(second.id).state == "ready", 600)
    assert chain.ledger.read(second.id).ssh_key == name
    chain.settle()


@case(35, kinds=["hyperbolic"])
def no_ssh_key_in_the_account(stage: Stage) -> None:
    chain = stage.chain()
    chain.fake.has_ssh_key = False
    chain.order()
    chain.settle()
    assert chain.only().state == "refused" and "Add an SSH public key" in chain.said() and not chain.fake.machines


@case(36)
def nothing_else_is_made(stage: Stage) -> None:
    """No disk, volume or firewall that would outlive its instance and cost money."""
    chain = stage.chain()
    chain.order(hours=0.2)
    chain.settle()
    bodies = [request.body for verb, request in chain.fake.requests if verb == "rent"]
    assert not any(word in key for body in bodies for key in body for word in ("file_system", "volume", "firewall"))
    if stage.kind == "gce":
        assert all(disk["autoDelete"] for body in bodies for disk in body["disks"])
    assert {verb for verb, _ in chain.fake.requests} <= {"offers", "rent", "list", "terminate", "keys", "balance"}
