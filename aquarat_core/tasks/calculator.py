"""A calculator for models: arithmetic with its own grammar, exact fractions, and limits on every size.

    expression = sum | count
    sum        = product (("+" | "-") product)*
    product    = factor (("*" | "/" | "//") factor)*
    factor     = ("+" | "-") factor | power
    power      = atom (("^" | "**") factor)?
    atom       = number | "(" sum ")"
    count      = text ".count(" text ")"

`//` rounds down, as in Python. A text is in single or double quotes and consists of printable ASCII characters other
than quotes and backslashes. `count` counts non-overlapping occurrences of at least one character. Nothing else is
evaluated: text outside the grammar, a division by zero and a number beyond the limits give None.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_CHARS, MAX_DEPTH, MAX_EXPONENT, MAX_BITS = 200, 32, 64, 512
"""Limits on the length of an expression, nested parentheses and signs, exponents, and numerators and denominators."""
DECIMALS = 6
"""Decimal places of a value that is not an integer."""

_TOKEN = re.compile(r"\s*(?:(\d[\d,]*(?:\.\d*)?|\.\d+)|(//|[-+*/^()]))")
_OPERATORS = {*"-+*/^()", "//"}
_TEXT = r"""(?:'([ !#-&(-\[\]-~]*)'|"([ !#-&(-\[\]-~]*)")"""
_COUNT = re.compile(rf"{_TEXT}\.count\({_TEXT}\)")


class _Wrong(ValueError):
    """The text is not an expression, or its value is out of bounds."""


def calculate(text: str) -> str | None:
    """The value of an expression as text; None if it has no value.

    An integer is printed in full, any other value rounded to `DECIMALS` places without zeros at the end: `1/8000000`
    gives "0". No digit passes through a float.
    """
    text = text.strip()
    if len(text) <= MAX_CHARS and text.isascii() and (match := _COUNT.fullmatch(text)):
        return _count(match)
    value = exact_value(text)
    if value is None:
        return None
    scaled = round(value * 10**DECIMALS)
    whole, decimals = divmod(abs(scaled), 10**DECIMALS)
    printed = f"{whole}.{decimals:0{DECIMALS}}".rstrip("0").rstrip(".")
    return f"-{printed}" if scaled < 0 else printed


def exact_value(text: str) -> Fraction | None:
    """The value of an arithmetic expression before it is rounded; None if it has no value, and for a count."""
    text = text.strip()
    if len(text) > MAX_CHARS or not text.isascii():
        return None
    try:
        parser = _Parser(_tokens(text))
        value = parser.sum(0)
        if parser.left:
            raise _Wrong
    except _Wrong:
        return None
    return value


def _count(match: re.Match[str]) -> str | None:
    within, counted = match[1] or match[2] or "", match[3] or match[4]
    return str(within.count(counted)) if counted else None


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    text, at = text.replace("**", "^"), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _Wrong
        found.append(match[1] or match[2])
        at = match.end()
    return found


class _Parser:
    """A recursive descent parser that consumes a list of tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.left = tokens[::-1]

    def take(self, *wanted: str) -> str | None:
        """Consume and return the next token if it is one of `wanted`."""
        return self.left.pop() if self.left and self.left[-1] in wanted else None

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while operator := self.take("+", "-"):
            other = self.product(depth)
            value = _bounded(value + other if operator == "+" else value - other)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while operator := self.take("*", "/", "//"):
            other = self.factor(depth)
            if operator != "*" and other == 0:
                raise _Wrong
            match operator:
                case "*":
                    value = _bounded(value * other)
                case "/":
                    value = _bounded(value / other)
                case _:
                    value = Fraction(value // other)
        return value

    def factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _Wrong
        if sign := self.take("+", "-"):
            value = self.factor(depth + 1)
            return value if sign == "+" else -value
        base = self.atom(depth)
        if not self.take("^"):
            return base
        exponent = self.factor(depth + 1)
        if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT or (base == 0 and exponent < 0):
            raise _Wrong
        return _bounded(base ** int(exponent))

    def atom(self, depth: int) -> Fraction:
        if self.take("("):
            value = self.sum(depth + 1)
            if not self.take(")"):
                raise _Wrong
            return value
        if not self.left or self.left[-1] in _OPERATORS:
            raise _Wrong
        return _bounded(Fraction(self.left.pop().replace(",", "")))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _Wrong
    return value
