"""Which offers somebody wants, and why another is not one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from aquarat_core.errors import UsageError
from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.money import Money, doubtful


@dataclass(frozen=True, slots=True)
class Wish:
    """What an offer must have; None for what does not matter. Texts may hold `*`, and case does not count."""

    type: str | None = None
    region: str | None = None
    model: str | None = None
    gpus: int | None = None
    max_price: Money | None = None
    """Of the whole host, per hour."""


@dataclass(frozen=True, slots=True)
class Judged:
    offer: Offer
    excluded: str | None
    """Why the offer does not fit or cannot be had; None if it fits."""


def judge(offers: Iterable[Offer], wish: Wish) -> list[Judged]:
    """All offers, the cheapest first. Raises `UsageError`, with the nearest name, for a type, region or model that no
    cloud has."""
    offers = sorted(offers, key=lambda one: (one.price.micros, one.cloud, one.id))
    check_names(offers, wish)
    return [Judged(one, why_not(one, wish)) for one in offers]


def check_names(offers: Sequence[Offer], wish: Wish) -> None:
    """Raises `UsageError`, with the nearest name, if no offer is of the type, region or model."""
    for what, wanted, known in (
        ("type", wish.type, [one.type for one in offers]),
        ("region", wish.region, [one.region for one in offers if one.region]),
        ("GPU model", wish.model, [one.gpu_model for one in offers]),
    ):
        if offers and wanted is not None and not any(_matches(name, wanted) for name in known):
            raise UsageError(f"there is no {what} {wanted!r}{nearest(wanted, known)}")


def why_not(offer: Offer, wish: Wish) -> str | None:
    """Why an offer is not what is wanted, or cannot be had."""
    if doubt := doubtful(offer.price, offer.gpus):
        return doubt
    if wish.type is not None and not _matches(offer.type, wish.type):
        return "another type"
    if wish.region is not None and offer.region and not _matches(offer.region, wish.region):
        return "another region"
    if wish.model is not None and not _matches(offer.gpu_model, wish.model):
        return "another GPU"
    if wish.gpus is not None and offer.gpus != wish.gpus:
        return f"{offer.gpus} GPUs"
    if wish.max_price is not None and offer.price > wish.max_price:
        return f"above {wish.max_price} an hour: it costs {offer.price}"
    if offer.available == "no":
        return offer.detail or "sold out"
    return None


def nearest(given: str, known: Sequence[str]) -> str:
    """How a sentence about an unknown name goes on: the name that is meant, or all that there are."""
    names = sorted(set(known))
    near = get_close_matches(given.lower(), [name.lower() for name in names], 1)
    if near:
        return f": did you mean {next(name for name in names if name.lower() == near[0])}?"
    return f": there are {', '.join(names)}" if names else ""


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name.lower(), pattern.lower())
