"""Names of rentals: `aq-<installation>-<rental>-<end>`.

A name is all that is needed to end a rental in time. It says whose the rental is, which order it answers, and when its
life is over at the latest. The end is in Unix seconds, base 36. Names have 25 characters, begin with a letter, and are
valid names of instances and hosts for all providers. They are never used twice.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PATTERN = re.compile("aq-([a-z0-9]{6})-([a-z0-9]{8})-([a-z0-9]{6})")
_INSTALLATION = re.compile("[a-z0-9]{6}")
_RENTAL = re.compile("[a-z0-9]{8}")
LATEST_END = 36**6 - 1
"""In December 2038."""
LENGTH = 25


@dataclass(frozen=True, slots=True)
class RentalName:
    """The parts of a name. Raises `ValueError` if they do not make one."""

    installation: str
    """Six letters and digits, the same for all rentals of one DAGSTER_HOME."""
    rental: str
    """Eight letters and digits, random."""
    end: int
    """Unix seconds."""

    def __post_init__(self) -> None:
        if not _INSTALLATION.fullmatch(self.installation):
            raise ValueError(f"{self.installation!r} is not the name of an installation: six of a-z and 0-9")
        if not _RENTAL.fullmatch(self.rental):
            raise ValueError(f"{self.rental!r} is not the name of a rental: eight of a-z and 0-9")
        if not 0 <= self.end <= LATEST_END:
            raise ValueError(f"a rental cannot end at {self.end}: Unix seconds up to {LATEST_END} fit into its name")

    def __str__(self) -> str:
        return f"aq-{self.installation}-{self.rental}-{_base36(self.end)}"


def parse(text: str | None) -> RentalName | None:
    """The parts of a name, or None for any text that is not exactly a name, so that no other instance is taken for
    ours."""
    found = _PATTERN.fullmatch(text) if text else None
    return RentalName(found[1], found[2], int(found[3], 36)) if found else None


def new_installation() -> str:
    return _random(6)


def new_rental() -> str:
    return _random(8)


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def _base36(number: int) -> str:
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
