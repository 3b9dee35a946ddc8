"""The calculator on expressions, on what is none, and on what would take for ever."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from aquarat_core.rollout.calculator import calculate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+1", "2"),
        (" 2 + 3 * 4 ", "14"),
        ("(2+3)*4", "20"),
        ("2^3^2", "512"),
        ("2**10", "1024"),
        ("-2^2", "-4"),
        ("(-2)^2", "4"),
        ("2^-1", "0.5"),
        ("10/4", "2.5"),
        ("1/3", "0.333333"),
        ("2/3", "0.666667"),
        ("-1/10000000", "0"),
        ("1,234.5 + .5", "1235"),
        ("0.1+0.2", "0.3"),
        ("8-3-2", "3"),
        ("100/10/5", "2"),
        ("--3", "3"),
        ("((((7))))", "7"),
        ("12345678901234567890*10", "123456789012345678900"),
    ],
)
def test_expressions(text: str, value: str) -> None:
    assert calculate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1+", "*2", "(1", "1)", "1 2", "()", "1/0", "0^-1", "2^0.5", "x", "1+x", "__import__('os')", "1;2",
        "print(1)", "[1]", "1e5", "9^99", "9^9^9", "2^64^64", "1" * 201, "(" * 40 + "1" + ")" * 40, "-" * 150 + "1",
        "\u0661+1", "1.2.3", "5%2", "1_000", "0x10", "2^2^2^2^2^2^2", "*".join(["9" * 30] * 6),
    ],
)  # fmt: skip
def test_what_is_no_expression_or_out_of_bounds_has_no_value(text: str) -> None:
    assert calculate(text) is None


def test_random_expressions_are_exact() -> None:
    rng = random.Random(0)

    def make(depth: int) -> tuple[str, Fraction]:
        if depth == 0 or rng.random() < 0.2:
            n = rng.randint(1, 50)
            return str(n), Fraction(n)
        (a, x), (b, y), operator = make(depth - 1), make(depth - 1), rng.choice("+-*/")
        if operator == "/" and y == 0:
            operator = "+"
        values = {"+": lambda: x + y, "-": lambda: x - y, "*": lambda: x * y, "/": lambda: x / y}
        return f"({a}{operator}{b})", values[operator]()

    for _ in range(300):
        text, value = make(3)
        assert float(calculate(text)) == pytest.approx(float(value), abs=1e-6)
