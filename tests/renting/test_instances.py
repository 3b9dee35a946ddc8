"""What lists and single records tell of instances, and how instances end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from aquarat_pipeline.renting.clouds.model import CloudError, Endpoint, Unauthorized, Unavailable
from aquarat_pipeline.renting.money import Money
from tests.renting.conftest import World, Worlds
from tests.renting.fakes.clock import START
from tests.renting.fakes.lambda_api import JUPYTER
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, always, once
from tests.renting.fakes.server import KEY, OTHER_KEY

KINDS = ("lambda", "hyperbolic")
NO_ANSWER: tuple[Effect, ...] = (
    "500", "503", "504", "418", "429", "429 with Retry-After", "401 html", "403 html", "403 error code 1010",
    "redirect", "cut", "late", "html 200", "unknown code", "provider error", "not the provider's form",
    "then half an answer", "then broken json", "then deep json", "then too long",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("effect", NO_ANSWER)
def test_a_failed_list_says_nothing(worlds: Worlds, kind: str, effect: Effect) -> None:
    world = worlds.of(kind, once("list", effect))
    world.rent()
    with pytest.raises(Unavailable) as told:
        world.cloud.list()
    assert KEY not in str(told.value)
    assert len(world.cloud.list().instances) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", ["list", "get", "offers", "balance", "terminate"])
def test_a_revoked_key_is_told_from_an_outage(worlds: Worlds, kind: str, ask: str) -> None:
    world = worlds.of(kind)
    _, made = world.rent()
    world.fake.keys_revoked_at = world.clock.now()
    asks: dict[str, Callable[[], object]] = {
        "list": world.cloud.list,
        "get": lambda: world.cloud.get(made),
        "offers": world.cloud.offers,
        "balance": world.cloud.balance,
        "terminate": lambda: world.cloud.terminate(made),
    }
    if (kind, ask) == ("lambda", "balance"):
        assert world.cloud.balance() is None
        return
    with pytest.raises(Unauthorized, match="look at the key and the account at https://"):
        asks[ask]()


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_another_shape_is_no_empty_list(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind, always("list", "not a list"))
    with pytest.raises(Unavailable, match="should be"):
        world.cloud.list()


@pytest.mark.parametrize("kind", KINDS)
def test_the_life_of_an_instance(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind, timing=Timing(boot=180, ending=30, listed_after_end=120))
    order, made = world.rent()
    begun = world.the_only()
    assert (begun.state, begun.endpoint, begun.name) == ("pending", None, order.name)

    world.clock.advance(200)
    running = world.the_only()
    assert running.state == "running"
    private = "10.0.0.1" if kind == "lambda" else None
    assert running.endpoint == Endpoint("203.0.113.1", 22, "ubuntu", private)
    assert running.price == Money(world.fake.machines[0].micros_per_hour)
    assert world.cloud.get(made) == running

    assert world.cloud.terminate(made).answer == "accepted"
    assert world.the_only().state == "ending"
    world.clock.advance(35)
    left = world.cloud.list().instances
    assert [one.state for one in left] == (["ended"] if kind == "lambda" else [])
    world.clock.advance(130)
    assert world.cloud.list().instances == ()
    assert world.cloud.get(made) is None
    assert not world.fake.alive()


def test_the_bill_of_lambda_counts_from_the_order(worlds: Worlds) -> None:
    world = worlds.of_lambda(timing=Timing(boot=180, ending=20))
    _, made = world.rent("gpu_1x_a10")
    ordered = world.clock.now()
    world.clock.advance(37 * 60 + 20 - 20 - 1)
    world.cloud.terminate(made)
    world.clock.advance(3600)
    assert 37 * 60 < world.fake.machines[0].stopped(world.clock.now()) - ordered <= 38 * 60
    assert world.fake.bill() == 817_000


def test_the_bill_of_hyperbolic_counts_from_running(worlds: Worlds) -> None:
    world = worlds.of_hyperbolic(timing=Timing(boot=200, ending=0))
    _, made = world.rent()
    world.clock.advance(200)
    assert world.fake.bill() == 0
    world.clock.advance(59)
    world.cloud.terminate(made)
    world.clock.advance(3600)
    assert world.fake.bill() in (45_834, 91_667)  # one minute of $2.75, two if the client waited for its turn
    left = world.cloud.balance()
    assert left == Money.dollars(100) - Money(world.fake.bill())


def test_used_up_credit_stops_everything(worlds: Worlds) -> None:
    world = worlds.of_hyperbolic(credit_cents=100, timing=Timing(boot=0))
    world.rent()
    world.clock.advance(3600)
    assert world.cloud.list().instances == ()
    world.fake.settle()
    assert not world.fake.alive()
    # $2.75 an hour by the minute: what the last begun minute costs may be more than was left.
    assert 1_000_000 <= world.fake.bill() <= 1_000_000 + 2_750_000 // 60 + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("effect", "state"),
    [("new status", "unknown"), ("extra fields", "running"), ("empty ip", "running"), ("no ip", "running")],
)
def test_what_is_new_in_a_record_does_no_harm(worlds: Worlds, kind: str, effect: Effect, state: str) -> None:
    world = worlds.of(kind, always("list", effect))
    order, _ = world.rent()
    world.clock.advance(200)
    instance = world.the_only()
    assert (instance.state, instance.name) == (state, order.name)
    assert (instance.endpoint is None) is (effect in ("empty ip", "no ip"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unreadable_record_hides_no_other(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind, once("list", "a record without status"))
    order, made = world.rent()
    listing = world.cloud.list()
    assert listing.instances == ()
    [unreadable] = listing.unreadable
    assert (unreadable.id, unreadable.name) == (made, order.name)
    assert listing.complete


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_without_id_and_name_makes_a_list_incomplete(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind, once("list", "a record without id and name"))
    world.rent()
    assert not world.cloud.list().complete


@pytest.mark.parametrize("kind", KINDS)
def test_instances_of_others_are_listed_too(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind)
    for name in ("aquarat-train", "aq-abc1231-abcdefgh-000001", None):
        world.fake.order(name)
    world.fake.order("of another account", account=OTHER_KEY)
    assert [one.name for one in world.cloud.list().instances] == ["aquarat-train", "aq-abc1231-abcdefgh-000001", None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_instance_may_be_missing(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind, timing=Timing(list_lag=60, missing_when_young=30))
    _, made = world.rent()
    assert world.cloud.list().instances == ()
    assert world.cloud.get(made) is None
    assert world.cloud.terminate(made).answer == "gone"
    assert world.fake.alive()
    world.clock.advance(60)
    assert world.the_only().id == made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("effect", [one for one in NO_ANSWER if one != "late"])
def test_an_end_that_was_not_answered_is_asked_for_again(worlds: Worlds, kind: str, effect: Effect) -> None:
    world = worlds.of(kind, once("terminate", effect))
    _, made = world.rent()
    with pytest.raises(Unavailable):
        world.cloud.terminate(made)
    # The first request may have been obeyed, and then the second finds nothing that it could end.
    assert world.cloud.terminate(made).answer in ("accepted", "gone")
    world.clock.advance(60)
    assert not world.fake.alive()


@pytest.mark.parametrize("kind", KINDS)
def test_an_accepted_end_may_have_no_effect(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind, once("terminate", "without effect"))
    _, made = world.rent()
    assert world.cloud.terminate(made).answer == "accepted"
    assert world.the_only().state == "pending"
    assert world.cloud.terminate(made).answer == "accepted"
    assert world.the_only().state == "ending"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_ours_cannot_be_ended(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind)
    foreign = world.fake.order("of another account", account=OTHER_KEY)
    assert world.cloud.terminate(foreign.id).answer == "gone"
    assert foreign.alive(world.clock.now())


def test_an_end_may_be_refused_for_a_while(worlds: Worlds) -> None:
    world = worlds.of_lambda(timing=Timing(earliest_end=600))
    _, made = world.rent()
    refusal = world.cloud.terminate(made)
    assert refusal.answer == "refused"
    assert "cannot be terminated yet" in refusal.why
    world.clock.advance(600)
    assert world.cloud.terminate(made).answer == "accepted"


def test_an_id_of_a_person_is_no_path(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    for odd in ("../ssh-keys", "a/b", "x?y=1", "x y", "x\r\nHost: z"):
        assert world.cloud.get(odd) is None
    assert {verb for verb, _ in world.fake.requests} == {"get"}


@pytest.mark.parametrize("odd", ["", "x", "٣", "5 or 1", "-1"])
def test_hyperbolic_ids_are_numbers(worlds: Worlds, odd: str) -> None:
    world = worlds.of_hyperbolic()
    assert world.cloud.terminate(odd).answer == "refused"
    assert not world.fake.requests


def test_times_are_for_display_only(worlds: Worlds) -> None:
    world = worlds.of_hyperbolic(once("list", "odd time"))
    world.rent()
    assert world.the_only().created is None
    created = world.the_only().created
    assert created is not None
    assert abs(created - datetime.fromtimestamp(START, UTC)).total_seconds() < 60


def test_lambda_tells_unwell_and_preempted(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    _, made = world.rent()
    world.clock.advance(200)
    world.fake.machines[0].unwell = True
    assert world.the_only().state == "unwell"
    world.fake.preempted.add(made)
    assert (world.the_only().state, world.the_only().raw_state) == ("ended", "preempted")


def test_the_keys_to_a_shell_are_dropped(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    world.rent()
    world.clock.advance(200)
    assert JUPYTER not in repr(world.cloud.list())


def test_a_label_that_came_back_short_is_seen(worlds: Worlds) -> None:
    world: World = worlds.of_hyperbolic()
    world.fake.label_length = 12
    order, _ = world.rent()
    assert world.the_only().name == order.name[:12]


def test_an_address_is_given_again(worlds: Worlds) -> None:
    world = worlds.of_lambda(timing=Timing(boot=0, ending=0, listed_after_end=0))
    world.fake.fleet.reuse = True
    addresses: list[str] = []
    for _ in range(2):
        _, made = world.rent()
        endpoint = world.the_only().endpoint
        assert endpoint is not None
        addresses.append(endpoint.host)
        world.cloud.terminate(made)
        world.clock.advance(1)
    assert addresses[0] == addresses[1]


@pytest.mark.parametrize("kind", KINDS)
def test_five_hundred_instances_are_one_request(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind)
    for number in range(500):
        world.fake.order(f"somebody-{number}")
    assert len(world.cloud.list().instances) == 500
    assert sum(verb == "list" for verb, _ in world.fake.requests) == 1


def test_all_errors_are_for_people() -> None:
    from aquarat_core.errors import UserError

    assert issubclass(CloudError, UserError)
