"""Sums of money, and bills."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as some

from aquarat_pipeline.renting.money import ZERO, Money, bill, doubtful

prices = some.integers(0, 100_000_000).map(Money)
seconds = some.integers(1, 10_000_000)
steps = some.sampled_from([1, 60, 3600])


def test_a_bill_worked_out_by_hand() -> None:
    # 37 min 20 s at $1.29 an hour by the minute: 38 x 129 / 60 = 81.7 cents
    assert bill(Money.cents(129), 37 * 60 + 20, 60) == Money(817_000)


@pytest.mark.parametrize(
    ("duration", "step", "micros"),
    [
        (0, 60, 0),
        (-5, 60, 0),
        (0.001, 60, 60_000),
        (60, 60, 60_000),
        (60.001, 60, 120_000),
        (3600, 1, 3_600_000),
        (1, 1, 1000),
        (1, 3600, 3_600_000),
    ],
)
def test_begun_steps_count(duration: float, step: int, micros: int) -> None:
    assert bill(Money.dollars("3.60"), duration, step) == Money(micros)


@given(prices, seconds, steps)
def test_a_bill_is_never_too_low_nor_a_step_too_high(price: Money, duration: int, step: int) -> None:
    exact = price.micros * duration / 3600
    assert exact - 1e-3 <= bill(price, duration, step).micros <= price.micros * (duration + step) / 3600 + 1


@given(prices, seconds, seconds)
def test_an_hour_split_by_steps_costs_the_same(price: Money, first: int, second: int) -> None:
    parts = bill(price * 3600, first, 1) + bill(price * 3600, second, 1)
    assert parts == bill(price * 3600, first + second, 1)


@pytest.mark.parametrize(
    ("amount", "micros"),
    [("31.92", 31_920_000), (3, 3_000_000), (Decimal("0.000001"), 1), ("-1.5", -1_500_000), ("1e2", 100_000_000)],
)
def test_dollars_are_exact(amount: str | int | Decimal, micros: int) -> None:
    assert Money.dollars(amount) == Money(micros)


@pytest.mark.parametrize("amount", ["", "a lot", "nan", "inf", "0.0000001", "1,5", "1e13", "1e999999", "-1e999999"])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=r"amount of money|finer than"):
        Money.dollars(amount)


@pytest.mark.parametrize(
    ("micros", "text"),
    [(31_920_000, "$31.92"), (0, "$0.00"), (1, "$0.01"), (-50_000, "-$0.05"), (1_234_567_890_000, "$1,234,567.89")],
)
def test_shown_in_cents_and_never_too_low(micros: int, text: str) -> None:
    assert str(Money(micros)) == text


@pytest.mark.parametrize(
    ("dollars", "gpus", "right"),
    [
        ("31.92", 8, True),
        ("3192", 8, False),  # cents taken for dollars
        ("0.3192", 8, False),  # dollars taken for cents
        ("0.05", 1, True),
        ("20", 1, True),
        ("20.01", 1, False),
        ("0.20", 0, True),
    ],
)
def test_a_price_in_the_wrong_unit_is_noticed(dollars: str, gpus: int, right: bool) -> None:
    assert (doubtful(Money.dollars(dollars), gpus) is None) is right


def test_amounts_are_ordered_and_added() -> None:
    assert sum([Money(1), Money(2)], ZERO) == Money(3)
    assert max(Money(1), Money(-2)) == Money(1)
    assert Money(5) - Money(7) == Money(-2)
