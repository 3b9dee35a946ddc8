"""Reads the JSON of providers field by field. What is missing or of another type makes an `Unavailable` that names it:
the provider may have changed its API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from aquarat_core.plain_text import one_line
from aquarat_pipeline.renting.clouds.model import Instance, Listing, Unavailable, Unreadable
from aquarat_pipeline.renting.money import Money


def field(raw: object, name: str) -> Any:
    """The field of a JSON object; None if it is missing or `raw` is no object."""
    return cast("dict[str, Any]", raw).get(name) if isinstance(raw, dict) else None


def member(raw: Any, name: str, kind: type[Any], where: str) -> Any:
    """The field `name` of a JSON object, which must be of this kind. Integers are no booleans."""
    value = field(raw, name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        shown = one_line(repr(value))[:60]
        raise Unavailable(f"the provider's answer about {where} has {shown} where {name} should be")
    return value


def members(raw: Any, name: str, where: str) -> list[Any]:
    return member(raw, name, list, where)


def text(raw: Any, name: str, where: str) -> str:
    return member(raw, name, str, where)


def integer(raw: Any, name: str, where: str) -> int:
    return member(raw, name, int, where)


def price_in_cents(raw: Any, name: str, where: str) -> Money:
    """A price above zero, whole or with a fraction of a cent, rounded up to a micro-dollar."""
    cents = field(raw, name)
    if isinstance(cents, bool) or not isinstance(cents, (int, Decimal)) or not 0 < cents < 10**9:
        raise Unavailable(f"the provider's answer about {where} has {one_line(repr(cents))[:60]} as the price {name}")
    micros = Decimal(cents) * 10_000
    return Money(int(micros.to_integral_value("ROUND_CEILING")))


def amount_in_cents(raw: Any, name: str, where: str) -> Money:
    """Any amount, rounded down to a micro-dollar, so that no balance is read as higher than it is."""
    cents = field(raw, name)
    if isinstance(cents, bool) or not isinstance(cents, (int, Decimal)) or not abs(cents) < 10**12:
        raise Unavailable(f"the provider's answer about {where} has {one_line(repr(cents))[:60]} as the amount {name}")
    return Money(int((Decimal(cents) * 10_000).to_integral_value("ROUND_FLOOR")))


def id_in(raw: Any, name: str) -> str | None:
    """An id that is a text or an integer, or None."""
    value = field(raw, name)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        return None
    return str(value)


def when(value: object) -> datetime | None:
    """A time in ISO 8601, or as `2026-09-12 13:59:00.123+00`. None if it cannot be read."""
    try:
        read = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def same_key(one: str, other: str) -> bool:
    """Whether two lines of OpenSSH public keys hold the same key: their comments do not count."""
    return one.split()[:2] == other.split()[:2] and len(one.split()) >= 2


def listing(
    entries: Iterable[Any],
    read: Callable[[Any], Instance],
    at: float,
    clock_ahead: float | None,
    name_field: str = "name",
) -> Listing:
    """Reads the entries one by one, so that one that cannot be read does not hide the others."""
    instances: list[Instance] = []
    unreadable: list[Unreadable] = []
    for entry in entries:
        try:
            instances.append(read(entry))
        except Unavailable as e:
            unreadable.append(Unreadable(id_in(entry, "id"), id_in(entry, name_field), str(e)))
    complete = all(one.id is not None or one.name is not None for one in unreadable)
    return Listing(tuple(instances), tuple(unreadable), complete, at, clock_ahead)
