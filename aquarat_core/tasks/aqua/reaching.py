"""Whether a rationale arrives at the right option.

An option of numbers and a unit is reached where all of its numbers stand, compared by value: "$2,000.00" by "= 2000".
Two numbers may stand on two lines, and so on. An option with variables, powers or words is reached where it stands as a
whole, apart from signs and case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from aquarat_core.tasks.aqua.signs import one_sign

Reach = Literal["last_line", "earlier", "nowhere"]
"""Where a rationale reaches the right option: on its last line, on an earlier one alone, or nowhere."""

_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?|(?<![A-Za-z])\.\d+")
"""Commas in thousands or lakhs ("1,20,000") do not end a number; the period of "Rs.500" is no point."""
_SYMBOLIC = re.compile(r"[\^\u221a\u03c0!<>|]|\d\s?(?![glhms](?![a-z]))[a-z](?![a-z])|(?<![a-z])[a-z]\s?[-+*/=^\d(]")
"""Something that numbers alone do not say: a power, a root, a variable. A single letter after a number may be a unit
("150m")."""
_WORDS = {
    word: Decimal(n)
    for n, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
}
_HALVES = {"\u00bc": " 1/4", "\u00bd": " 1/2", "\u00be": " 3/4", "\u2153": " 1/3", "\u2154": " 2/3"}
_DROPPED = re.compile(r"[\s$\u20b9\u20ac\u00a3,]|rs\.?(?=\s?\d)|(?<=\d)\.0+(?!\d)|[.;:!]+$")
_NONE = re.compile(r"\W*(?:none(?: of (?:these|those|them|the above))?|no(?: correct| such)? (?:answer|option))\W*")


def reach(rationale: str, options: tuple[str, ...], right: int) -> Reach:
    """Where `rationale` reaches the option with the index `right`.

    "None of these" is reached where no other option is.
    """
    lines = [line for line in rationale.split("\n") if line]
    if not lines:
        return "nowhere"
    if _NONE.fullmatch(options[right].lower()):
        others = [option for i, option in enumerate(options) if i != right]
        return "nowhere" if any(_reached(lines, option) for option in others) else "last_line"
    if _reached(lines, options[right]):
        return "last_line"
    return "earlier" if any(_reached(lines[: n + 1], options[right]) for n in range(len(lines) - 1)) else "nowhere"


def plain(text: str) -> str:
    """`text` without what does not change an answer: spaces, case, currency, commas, zeros after the point."""
    return _DROPPED.sub("", one_sign(text).lower().strip())


def _reached(lines: Sequence[str], option: str) -> bool:
    """Whether the end of `lines` has the option: as many lines of it as the option has numbers."""
    numbers = _numbers(option)
    if numbers and not _SYMBOLIC.search(option.lower()):
        there = _numbers("\n".join(lines[-len(numbers) :]))
        return all(there.count(x) >= numbers.count(x) for x in numbers)
    wanted = plain(option)
    if not wanted:
        return False
    if not numbers and _stands_in(_spaced(option), _spaced(lines[-1])):
        return True
    return bool(numbers or _SYMBOLIC.search(option.lower())) and wanted in plain(lines[-1])


def _spaced(text: str) -> str:
    return " ".join(one_sign(text).lower().split())


def _stands_in(words: str, line: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(words.strip(' .'))}(?![a-z0-9])", line) is not None


def _numbers(text: str) -> list[Decimal]:
    """The numbers in `text` by value."""
    if (word := text.strip(" .").lower()) in _WORDS:
        return [_WORDS[word]]
    for sign, fraction in _HALVES.items():
        text = text.replace(sign, fraction)
    return [Decimal(found.replace(",", "")) for found in _NUMBER.findall(one_sign(text))]
