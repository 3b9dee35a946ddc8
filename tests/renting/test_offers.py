"""What clouds offer."""

from __future__ import annotations

from typing import Any

import pytest

from aquarat_core.errors import UsageError
from aquarat_pipeline.renting.clouds.cloud import Account, Surroundings, accounts_in_environment, connect
from aquarat_pipeline.renting.clouds.model import Offer, Unavailable
from aquarat_pipeline.renting.money import Money
from tests.renting.conftest import Worlds
from tests.renting.fakes.script import once
from tests.renting.fakes.server import FakeCloud


def test_lambda_offers_types_where_they_are(worlds: Worlds) -> None:
    offers = {one.id: one for one in worlds.of_lambda().cloud.offers()}
    assert offers["gpu_1x_a10@us-west-1"] == Offer(
        cloud="lambda", id="gpu_1x_a10@us-west-1", type="gpu_1x_a10", region="us-west-1", gpus=1, gpu_model="A10",
        price=Money.dollars("1.29"), available="yes", gpu_memory_gb=24, vcpus=30, memory_gb=200, disk_gb=1400,
    )  # fmt: skip
    assert offers["gpu_8x_h100_sxm5@us-east-1"].price == Money.dollars("31.92")
    assert offers["gpu_8x_h100_sxm5@us-east-1"].gpus == 8
    assert offers["gpu_1x_gh200@us-east-1"].arch == "arm64"
    assert offers["cpu_4x_general@us-east-1"].gpus == 0
    sold_out = offers["gpu_8x_a100_80gb_sxm4@"]
    assert (sold_out.available, sold_out.detail) == ("no", "sold out in all regions")


def test_hyperbolic_offers_virtual_machines(worlds: Worlds) -> None:
    offers = {one.id: one for one in worlds.of_hyperbolic().cloud.offers()}
    assert len(offers) == 5, "the bare-metal host is left out"
    assert offers["8x-h100@us-east-1/infiniband"].price == Money.dollars("25.52")
    assert offers["1x-h100@us-east-1/ethernet"].available == "unknown", "no number is not zero"
    assert offers["1x-rtx-6000-pro@us-east-3/ethernet"].available == "no"
    assert offers["8x-b200@us-east-1/infiniband"].detail == "switched off"
    assert offers["1x-h100@ca-east-1/ethernet"].memory_gb == 200


def _without(name: str) -> Any:
    def spoil(item: dict[str, Any]) -> None:
        del item["instance_type"][name]

    return spoil


def _with(name: str, value: object) -> Any:
    def spoil(item: dict[str, Any]) -> None:
        item["instance_type"][name] = value

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _without("price_cents_per_hour"),
        _without("specs"),
        _without("name"),
        _with("price_cents_per_hour", "129"),
        _with("price_cents_per_hour", True),
        _with("price_cents_per_hour", 0),
        _with("price_cents_per_hour", -5),
        _with("price_cents_per_hour", None),
        _with("price_cents_per_hour", 10**12),
        _with("specs", []),
        lambda item: item.pop("regions_with_capacity_available"),
        lambda item: item.update(regions_with_capacity_available=[{}]),
    ],
)
def test_offers_of_another_shape_are_an_error(worlds: Worlds, spoil: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds.of_lambda()
    answer = world.fake._types()
    spoil(next(iter(answer.data["data"].values())))
    monkeypatch.setattr(world.fake, "_types", lambda: answer)
    with pytest.raises(Unavailable, match="provider's answer about"):
        world.cloud.offers()


def test_a_fraction_of_a_cent_is_rounded_up(worlds: Worlds) -> None:
    world = worlds.of_hyperbolic()
    world.fake.options[0][6] = 274.99999
    assert world.cloud.offers()[0].price == Money(2_750_000)
    world.fake.options[0][6] = 0.00001
    assert world.cloud.offers()[0].price == Money(1)


@pytest.mark.parametrize("kind", ["lambda", "hyperbolic"])
@pytest.mark.parametrize("effect", ["500", "html 200", "403 error code 1010", "cut", "429"])
def test_no_offers_are_told_from_no_answer(worlds: Worlds, kind: str, effect: Any) -> None:
    world = worlds.of(kind, once("offers", effect))
    with pytest.raises(Unavailable, match=f"^{kind}: "):
        world.cloud.offers()


def test_a_key_that_is_missing_is_named(surroundings: Surroundings) -> None:
    with pytest.raises(UsageError, match=r"^rent: RENT_KEY is not set: make a key at https://cloud\.lambda\.ai"):
        connect(Account("rent", "lambda", "RENT_KEY"), surroundings)


@pytest.mark.parametrize("key", ["two words", "line\nline", "schlüssel", "tab\tbed"])
def test_a_key_that_is_none_is_refused(surroundings: Surroundings, key: str) -> None:
    odd = Surroundings(surroundings.shared, {"LAMBDA_API_KEY": key})
    with pytest.raises(UsageError, match="copy it again") as told:
        connect(Account("lambda", "lambda"), odd)
    assert key not in str(told.value)


def test_accounts_are_those_that_have_keys() -> None:
    assert accounts_in_environment({"HYPERBOLIC_API_KEY": "k", "LAMBDA_API_KEY": " "}) == [
        Account("hyperbolic", "hyperbolic")
    ]


def test_another_key_is_refused_and_not_shown(worlds: Worlds, surroundings: Surroundings) -> None:
    from aquarat_pipeline.renting.clouds.model import Unauthorized

    fake: FakeCloud = worlds.of_lambda().fake
    wrong = Surroundings(surroundings.shared, {"LAMBDA_API_KEY": "wrong-canary"}, worlds.clock.now, worlds.clock.sleep)
    with pytest.raises(Unauthorized) as told:
        connect(Account("lambda", "lambda", address=fake.address), wrong).offers()
    assert str(told.value) == (
        "lambda: Lambda says global/invalid-api-key: API key was invalid, expired, or deleted: look at the key and the "
        "account at https://cloud.lambda.ai/api-keys"
    )
    worlds.clock.advance(1)
