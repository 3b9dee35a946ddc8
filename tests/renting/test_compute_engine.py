"""Compute Engine: orders that may be repeated, an end that Google sees to, host keys that the guest publishes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from aquarat_core.errors import UsageError
from aquarat_pipeline.renting.clouds.cloud import Account, Surroundings, connect
from aquarat_pipeline.renting.clouds.model import (
    Endpoint,
    NoCapacity,
    OutcomeUnknown,
    Refused,
    Unauthorized,
    Unavailable,
)
from aquarat_pipeline.renting.money import Money
from tests.renting.conftest import PUBLIC_KEY, Worlds
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, always, once
from tests.renting.fakes.server import OTHER_KEY
from tests.serving import free_port

UNCLEAR: tuple[Effect, ...] = (
    "500", "503", "504", "429", "403 html", "redirect", "cut", "html 200", "unknown code", "provider error",
)  # fmt: skip
MADE_AND_UNCLEAR: tuple[Effect, ...] = (
    "then 500", "then 429", "then 504", "then cut", "then half an answer", "then html", "then redirect",
    "then broken json",
)  # fmt: skip


def test_offers_are_types_with_gpus_and_a_price(worlds: Worlds) -> None:
    offers = worlds.of_compute().cloud.offers()
    assert sorted(one.id for one in offers) == [
        "a3-highgpu-8g@europe-west4-b",
        "a3-highgpu-8g@us-central1-a",
        "g2-standard-4@europe-west4-b",
        "g2-standard-4@us-central1-a",
    ]
    big = next(one for one in offers if one.id == "a3-highgpu-8g@us-central1-a")
    assert (big.gpus, big.gpu_model, big.gpu_memory_gb, big.memory_gb) == (8, "H100", 80, 1872)
    assert (big.price, big.available) == (Money.dollars("88.25"), "unknown")


def test_the_life_of_an_instance(worlds: Worlds) -> None:
    world = worlds.of_compute(timing=Timing(boot=60, ending=40))
    order, made = world.rent("g2-standard-4")
    assert made == f"us-central1-a/{order.name}"
    assert (world.the_only().state, world.the_only().endpoint) == ("pending", None)
    world.clock.advance(60)
    running = world.the_only()
    assert running.endpoint == Endpoint("203.0.113.1", 22, "ubuntu", "10.0.0.1")
    assert (running.state, running.type, running.region) == ("running", "g2-standard-4", "us-central1-a")
    assert running.created is not None
    assert world.cloud.get(made) == running
    assert world.cloud.terminate(made).answer == "accepted"
    assert world.the_only().state == "ending"
    world.clock.advance(60)
    assert world.cloud.get(made) is None
    assert world.cloud.terminate(made).answer == "gone"
    assert not world.fake.alive()


def test_an_order_says_all_that_matters(worlds: Worlds) -> None:
    world = worlds.of_compute()
    order, _ = world.rent("a3-highgpu-8g", hours=3, user_data="#cloud-config\n", tags={"aq-pool": "h100"})
    asked: Any = world.fake.machines[0].asked
    assert asked["name"] == order.name
    assert asked["labels"] == {"aq-pool": "h100"}
    assert asked["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert 0 <= 3 * 3600 - int(asked["scheduling"]["maxRunDuration"]["seconds"]) <= 5
    metadata = {one["key"]: one["value"] for one in asked["metadata"]["items"]}
    assert metadata["ssh-keys"] == f"ubuntu:{PUBLIC_KEY}"
    assert metadata["user-data"] == "#cloud-config\n"
    assert metadata["enable-guest-attributes"] == "TRUE"
    assert "serviceAccounts" not in asked, "the host would hold credentials of the project"


def test_google_ends_it_when_nobody_does(worlds: Worlds) -> None:
    world = worlds.of_compute()
    world.rent("g2-standard-4", hours=2)
    world.clock.advance(2 * 3600 - 60)
    assert world.fake.alive()
    world.clock.advance(60)
    assert not world.fake.alive()
    assert abs(world.fake.bill() - 2 * 710_000) <= 5 * 710_000 // 3600


def test_an_order_may_be_repeated(worlds: Worlds) -> None:
    world = worlds.of_compute(once("rent", "then 500"))
    offer, order = world.cloud.offers()[0], world.order()
    with pytest.raises(OutcomeUnknown):
        world.cloud.rent(offer, order)
    first = world.cloud.rent(offer, order)
    assert world.cloud.rent(offer, order) == first
    assert len(world.fake.machines) == 1
    ids = {request.query["requestId"] for verb, request in world.fake.requests if verb == "rent"}
    assert len(ids) == 1


def test_a_name_that_exists_is_the_instance_of_an_earlier_order(worlds: Worlds) -> None:
    world = worlds.of_compute()
    offer, order = world.cloud.offers()[0], world.order()
    world.cloud.rent(offer, order)
    world.fake.request_ids.clear()  # Google forgets request ids after a while
    assert world.cloud.rent(offer, order).id == f"{offer.region}/{order.name}"
    assert len(world.fake.machines) == 1


@pytest.mark.parametrize("effect", UNCLEAR)
def test_an_answer_that_decides_nothing_is_unclear(worlds: Worlds, effect: Effect) -> None:
    world = worlds.of_compute(once("rent", effect))
    with pytest.raises(OutcomeUnknown):
        world.rent()
    assert not world.fake.machines
    assert sum(verb == "rent" for verb, _ in world.fake.requests) == 1


@pytest.mark.parametrize("effect", MADE_AND_UNCLEAR)
def test_an_instance_whose_answer_is_lost_is_unclear(worlds: Worlds, effect: Effect) -> None:
    world = worlds.of_compute(once("rent", effect))
    with pytest.raises(OutcomeUnknown):
        world.rent()
    assert len(world.cloud.list().instances) == 1
    assert sum(verb == "rent" for verb, _ in world.fake.requests) == 1


@pytest.mark.parametrize(
    ("effect", "scope"), [("no capacity", "offer"), ("quota", "account"), ("inactive", "account"), ("401", "offer")]
)
def test_a_refusal_is_definite(worlds: Worlds, effect: Effect, scope: str) -> None:
    world = worlds.of_compute(once("rent", effect))
    with pytest.raises(Refused) as told:
        world.rent()
    assert told.value.scope == ("account" if effect == "401" else scope)
    assert isinstance(told.value, NoCapacity) is (effect == "no capacity")
    assert not world.fake.machines


def test_what_was_not_sent_is_refused(worlds: Worlds) -> None:
    world = worlds.of_compute()
    offer, order = world.cloud.offers()[0], world.order()
    options: dict[str, object] = {"project": "our-project", "zones": ["us-central1-a"], "prices": {}}
    nobody = connect(Account("gce", "gce", None, f"http://127.0.0.1:{free_port()}", options), worlds.surroundings)
    with pytest.raises(Refused, match="cannot be reached; nothing was ordered") as told:
        nobody.rent(offer, order)
    assert told.value.code == "unreachable"


@pytest.mark.parametrize("effect", [*UNCLEAR, "then half an answer", "then broken json"])
def test_a_failed_list_says_nothing(worlds: Worlds, effect: Effect) -> None:
    world = worlds.of_compute(once("list", effect))
    world.rent()
    with pytest.raises((Unavailable, Unauthorized)):
        world.cloud.list()
    assert len(world.cloud.list().instances) == 1


def test_a_zone_without_an_answer_makes_a_list_fail(worlds: Worlds) -> None:
    world = worlds.of_compute()
    world.fake.unreachable.append("projects/our-project/zones/europe-west4-b")
    with pytest.raises(Unavailable, match="no answer about projects/our-project/zones/europe-west4-b"):
        world.cloud.list()


def test_all_pages_of_all_zones_are_read(worlds: Worlds) -> None:
    world = worlds.of_compute()
    world.fake.pages_of = 2
    for number in range(5):
        world.fake.order(f"train-{number}", zone=("us-central1-a", "europe-west4-b")[number % 2])
    world.fake.order("of-another-project", account=OTHER_KEY)
    assert sorted(str(one.name) for one in world.cloud.list().instances) == [f"train-{number}" for number in range(5)]


def test_a_stopped_instance_is_not_gone(worlds: Worlds) -> None:
    world = worlds.of_compute()
    _, made = world.rent()
    world.fake.machines[0].unwell = True
    assert (world.the_only().raw_state, world.the_only().state) == ("TERMINATED", "unwell")
    assert world.cloud.terminate(made).answer == "accepted"


def test_an_unknown_status_is_neither_ready_nor_gone(worlds: Worlds) -> None:
    world = worlds.of_compute(always("list", "new status"))
    world.rent()
    assert world.the_only().state == "unknown"


def test_the_guest_publishes_its_keys(worlds: Worlds) -> None:
    world = worlds.of_compute()
    order, made = world.rent()
    assert world.cloud.host_keys(made) == ()
    world.fake.host_keys[order.name] = [("ssh-ed25519", "AAAAone"), ("ecdsa-sha2-nistp256", "AAAAtwo")]
    assert world.cloud.host_keys(made) == ("ssh-ed25519 AAAAone", "ecdsa-sha2-nistp256 AAAAtwo")


@pytest.mark.parametrize("ask", ["list", "get", "offers", "terminate"])
def test_bad_credentials_are_told_from_an_outage(worlds: Worlds, ask: str) -> None:
    world = worlds.of_compute()
    _, made = world.rent()
    world.fake.keys_revoked_at = world.clock.now()
    asks: dict[str, Callable[[], object]] = {
        "list": world.cloud.list,
        "get": lambda: world.cloud.get(made),
        "offers": world.cloud.offers,
        "terminate": lambda: world.cloud.terminate(made),
    }
    with pytest.raises(Unauthorized, match="look at https://console"):
        asks[ask]()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "needs the options project, zones, and prices"),
        ({"project": "p", "zones": "us-central1-a", "prices": {}}, "needs the options"),
        ({"project": "p", "zones": [], "prices": {"g2-standard-4": "cheap"}}, "prices: 'cheap' is not an amount"),
    ],
)
def test_options_that_are_missing_are_named(surroundings: Surroundings, options: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        connect(Account("gce", "gce", None, "http://127.0.0.1:1", options), surroundings)
