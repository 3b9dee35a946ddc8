"""Amounts of money as whole micro-dollars, so that sums and bills are exact."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import total_ordering
from math import ceil

_MICROS = 1_000_000
_SECONDS_PER_HOUR = 3600
_MOST = 10**18
"""A million million dollars, in micro-dollars. Without a limit, `1e999999999` would fill the memory with digits."""
LOWEST_GPU_PRICE = 50_000
HIGHEST_GPU_PRICE = 20_000_000
"""Micro-dollars per GPU-hour. A price outside is taken for an error in its unit: cents for dollars, a GPU's price for a
host's."""


@total_ordering
@dataclass(frozen=True, slots=True)
class Money:
    """US dollars. May be negative, as a balance can be."""

    micros: int

    @classmethod
    def dollars(cls, amount: str | int | Decimal) -> Money:
        """Exact: raises `ValueError` for an amount that is not a whole number of micro-dollars, or no number."""
        return cls._whole(amount, _MICROS)

    @classmethod
    def cents(cls, amount: str | int | Decimal) -> Money:
        return cls._whole(amount, _MICROS // 100)

    @classmethod
    def _whole(cls, amount: str | int | Decimal, unit: int) -> Money:
        try:
            micros = Decimal(amount) * unit
            if not abs(micros) < _MOST:
                raise ValueError
            whole = int(micros)
        except (ArithmeticError, ValueError):
            raise ValueError(f"{amount!r} is not an amount of money") from None
        if whole != micros:
            raise ValueError(f"{amount} is finer than a millionth of a dollar")
        return cls(whole)

    def __add__(self, other: Money) -> Money:
        return Money(self.micros + other.micros)

    def __sub__(self, other: Money) -> Money:
        return Money(self.micros - other.micros)

    def __mul__(self, factor: int) -> Money:
        return Money(self.micros * factor)

    def __lt__(self, other: Money) -> bool:
        return self.micros < other.micros

    def __str__(self) -> str:
        """In dollars and cents, rounded up, so that no cost is shown as lower than it is: `$31.92`, `-$0.05`."""
        cents = ceil(Fraction(self.micros, _MICROS // 100))
        sign = "-" if cents < 0 else ""
        return f"{sign}${abs(cents) // 100:,}.{abs(cents) % 100:02}"


ZERO = Money(0)


def bill(price_per_hour: Money, seconds: float, step_seconds: int) -> Money:
    """What a provider asks for `seconds` of a host, who counts begun steps of `step_seconds`.

    Rounded up to the micro-dollar. A host that never ran (`seconds` of 0 or less) costs nothing.
    """
    if seconds <= 0:
        return ZERO
    steps = ceil(Fraction(seconds) / step_seconds)
    return Money(ceil(Fraction(price_per_hour.micros * steps * step_seconds, _SECONDS_PER_HOUR)))


def doubtful(price_per_hour: Money, gpus: int) -> str | None:
    """Why a host's price cannot be right, or None. Hosts without GPUs are not judged."""
    if gpus < 1 or LOWEST_GPU_PRICE * gpus <= price_per_hour.micros <= HIGHEST_GPU_PRICE * gpus:
        return None
    return (
        f"{price_per_hour} an hour for {gpus} GPU{'s' if gpus > 1 else ''} is outside {Money(LOWEST_GPU_PRICE)} to "
        f"{Money(HIGHEST_GPU_PRICE)} per GPU-hour: the provider's unit of price may have changed"
    )
