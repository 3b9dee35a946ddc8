"""The calculator on expressions, on what is none, and on what would take for ever."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from aquarat_core.tasks.calculator import calculate


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
        ("7//2", "3"),
        ("-7//2", "-4"),
        ("7 // -2", "-4"),
        ("7.5//.5", "15"),
        ("100//7//2", "7"),
        ("2*7//4*3", "9"),
        ("1.", "1"),
        ("1.+.5", "1.5"),
        ("(2.)*3.", "6"),
        ("1,000./8", "125"),
        ("246913578024691357/2", "123456789012345678.5"),
        ("-246913578024691357/2", "-123456789012345678.5"),
        ("12345678901234567/1000", "12345678901234.567"),
        ("999999999999999999999/1000000000", "1000000000000"),
        ("1/8000000", "0"),
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
        "1//0", "0//0", "//2", "1//", "1///2", "1/ /2", "1//(2-2)", ".", "1..", "1..2", ".+1", "1. 5", "1.e3",
    ],
)  # fmt: skip
def test_what_is_no_expression_or_out_of_bounds_has_no_value(text: str) -> None:
    assert calculate(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'strawberry'.count('r')", "3"),
        ('"strawberry".count("r")', "3"),
        ("  'strawberry'.count(\"z\") ", "0"),
        ("'Strawberry'.count('s')", "0"),
        ("'banana'.count('ana')", "1"),
        ("''.count('a')", "0"),
        ("'to be or not'.count(' ')", "3"),
        ("'__import__(1).x{0}%s'.count('_')", "4"),
    ],
)
def test_counting_is_as_in_python(text: str, value: str) -> None:
    assert calculate(text) == value == str(eval(text.strip()))


@pytest.mark.parametrize(
    "text",
    [
        # nothing to count, and what is no call of count with one text
        "'abc'.count('')", "'abc'.count()", "'abc'.count(a)", "abc.count('a')", "'abc'.count('a'", "'abc'.count 'a'",
        "'abc' .count('a')", "'abc'. count('a')", "'abc'.count( 'a')", "'abc'.Count('a')", "'abc'.index('a')",
        "'abc'.count('a','b')", "'abc'.count('a', 0)", "'abc'.count('a').real", "'abc'.count('a')+1",
        "1+'abc'.count('a')", "('abc').count('a')", "'a'*9.count('a')", "'a''b'.count('a')", "'abc'", "len('abc')",
        "'abc'.count('a'); 1", "'abc'.count('a')#", "'abc'.count(__import__('os'))", "'abc'.__class__",
        "'{0.__class__}'.format(1)", "f'{1}'.count('1')", "b'abc'.count('a')", "'''abc'''.count('a')",
        # quotes, escapes, other scripts, and more than fits
        "'abc\".count('a')", "'it's'.count('s')", r"'a\n'.count('n')", r"'a'.count('\x61')", "'a\nb'.count('a')",
        "'\x00'.count('a')", "'\u00e9t\u00e9'.count('t')", "\u2018abc\u2019.count('a')", "'" * 200,
        "'" + "a" * 200 + "'.count('a')", "''.count('".join(["'a'"] * 20),
    ],
)  # fmt: skip
def test_hostile_counting_has_no_value(text: str) -> None:
    assert calculate(text) is None


def test_random_expressions_are_exact() -> None:
    rng = random.Random(0)

    def make(depth: int) -> tuple[str, Fraction]:
        if depth == 0 or rng.random() < 0.2:
            n = rng.randint(1, 50)
            return str(n), Fraction(n)
        (a, x), (b, y), operator = make(depth - 1), make(depth - 1), rng.choice(["+", "-", "*", "/", "//"])
        if operator[0] == "/" and y == 0:
            operator = "+"
        values = {
            "+": lambda: x + y,
            "-": lambda: x - y,
            "*": lambda: x * y,
            "/": lambda: x / y,
            "//": lambda: Fraction(x // y),
        }
        return f"({a}{operator}{b})", values[operator]()

    for _ in range(300):
        text, value = make(3)
        assert float(calculate(text)) == pytest.approx(float(value), abs=1e-6)
