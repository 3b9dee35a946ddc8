"""What an order can come to: with either provider, whatever the answer, a refusal means that nothing was made."""

from __future__ import annotations

import pytest

from aquarat_pipeline.renting.clouds.cloud import Account, connect
from aquarat_pipeline.renting.clouds.model import Granted, NoCapacity, OutcomeUnknown, Refused
from tests.renting.conftest import Worlds
from tests.renting.fakes.script import Effect, Fault, once
from tests.renting.fakes.server import KEY
from tests.serving import free_port

KINDS = ("lambda", "hyperbolic")
UNCLEAR: tuple[Effect, ...] = (
    "500", "503", "504", "418", "429", "429 with Retry-After", "401 html", "403 html", "403 error code 1010",
    "redirect", "cut", "late", "drip", "html 200", "unknown code", "provider error", "not the provider's form",
)  # fmt: skip
MADE_AND_UNCLEAR: tuple[Effect, ...] = (
    "then 500", "then 429", "then 504", "then 404", "then cut", "then half an answer", "then late", "then html",
    "then redirect", "then broken json", "then deep json", "then too long", "then no id",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_makes_one_instance(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind)
    order, made = world.rent()
    assert [one.id for one in world.fake.alive()] == [made]
    assert world.the_only().name == order.name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("effect", UNCLEAR)
def test_an_answer_that_decides_nothing_is_unclear(worlds: Worlds, kind: str, effect: Effect) -> None:
    world = worlds.of(kind, once("rent", effect))
    with pytest.raises(OutcomeUnknown) as told:
        world.rent()
    assert told.value.instance_id is None
    assert not world.fake.machines
    assert KEY not in str(told.value)
    assert sum(verb == "rent" for verb, _ in world.fake.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("effect", MADE_AND_UNCLEAR)
def test_an_instance_whose_answer_is_lost_is_unclear(worlds: Worlds, kind: str, effect: Effect) -> None:
    world = worlds.of(kind, once("rent", effect))
    offer, order = world.cloud.offers()[0], world.order()
    with pytest.raises(OutcomeUnknown):
        world.cloud.rent(offer, order)
    assert world.the_only().name == order.name
    assert sum(verb == "rent" for verb, _ in world.fake.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("effect", ["then 500 with id", "then 400 with id"])
def test_an_id_in_an_error_is_an_instance(worlds: Worlds, kind: str, effect: Effect) -> None:
    world = worlds.of(kind, once("rent", effect))
    with pytest.raises(OutcomeUnknown) as told:
        world.rent()
    assert told.value.instance_id == world.the_only().id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("effect", "scope"), [("no capacity", "offer"), ("quota", "account"), ("inactive", "account"), ("401", "account")]
)
def test_a_refusal_is_definite(worlds: Worlds, kind: str, effect: Effect, scope: str) -> None:
    world = worlds.of(kind, once("rent", effect))
    with pytest.raises(Refused) as told:
        world.rent()
    assert told.value.scope == scope
    assert isinstance(told.value, NoCapacity) is (effect == "no capacity")
    assert not world.fake.machines


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_sent_is_refused(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind)
    offer, order = world.cloud.offers()[0], world.order()
    nobody = connect(Account(kind, kind, address=f"http://127.0.0.1:{free_port()}"), worlds.surroundings)
    with pytest.raises(Refused, match="cannot be reached") as told:
        nobody.rent(offer, order)
    assert told.value.code == "unreachable"


@pytest.mark.parametrize("kind", KINDS)
def test_orders_wait_for_their_turn(worlds: Worlds, kind: str) -> None:
    world = worlds.of(kind)
    began = world.clock.now()
    world.rent()
    world.rent()
    apart = world.cloud.capabilities.rate.rent_every
    assert world.clock.now() - began >= apart
    assert len(world.fake.alive()) == 2


def test_lambda_gets_all_of_an_order(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    order, _ = world.rent(user_data="#cloud-config\n", image="ubuntu-lts", tags={"aq-pool": "a10", "aq-end": "5"})
    [machine] = world.fake.machines
    assert machine.asked == {
        "region_name": machine.region,
        "instance_type_name": machine.type,
        "ssh_key_names": [order.ssh_key_name],
        "name": order.name,
        "hostname": order.name,
        "tags": [{"key": "aq-pool", "value": "a10"}, {"key": "aq-end", "value": "5"}],
        "image": {"family": "ubuntu-lts"},
        "user_data": "#cloud-config\n",
    }


def test_lambda_answers_with_no_more_than_an_id(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    assert isinstance(world.cloud.rent(world.cloud.offers()[0], world.order()), Granted)


def test_an_unknown_ssh_key_is_refused(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    offer, order = world.cloud.offers()[0], world.order()
    world.fake.ssh_keys.clear()  # as if deleted in the dashboard
    with pytest.raises(Refused, match="does not exist"):
        world.cloud.rent(offer, order)


def test_hyperbolic_without_any_ssh_key_refuses(worlds: Worlds) -> None:
    world = worlds.of_hyperbolic()
    world.fake.has_ssh_key = False
    with pytest.raises(Refused) as told:
        world.rent()
    assert (told.value.code, told.value.scope) == ("NoPublicKey", "account")


def test_hyperbolic_repeats_how_hosts_are_connected(worlds: Worlds) -> None:
    world = worlds.of_hyperbolic()
    offer = next(one for one in world.cloud.offers() if one.gpus == 8 and one.available == "yes")
    world.cloud.rent(offer, world.order())
    assert world.fake.machines[0].asked["networkType"] == "infiniband"


def test_an_answer_after_too_many_requests_slows_everyone_down(worlds: Worlds) -> None:
    world = worlds.of_lambda(Fault("rent", "429 with Retry-After", calls=(1,)))
    with pytest.raises(OutcomeUnknown):
        world.rent()
    began = world.clock.now()
    world.cloud.list()
    assert world.clock.now() - began >= 7
