"""The offers and balances of accounts as they were last seen, so that those who wait for a host ask seldom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aquarat_core.errors import UserError
from aquarat_pipeline.renting.clouds.cloud import Account, Cloud
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering.choosing import Candidate
from aquarat_pipeline.renting.rental import AccountRecord

LOOK_SECONDS = 60.0
LONGEST_LOOK_SECONDS = 600.0
"""Between two looks at an account; twice as long after each in which nothing could be had."""


@dataclass(slots=True)
class Seen:
    """An account at one time."""

    at: float
    candidates: tuple[Candidate, ...] = ()
    balance: Money | None = None
    problem: str | None = None
    """Why it could not be looked at."""
    pause: float = LOOK_SECONDS
    """Until the next look."""


class Market:
    """Remembers what accounts offer."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}

    def look(self, accounts: Iterable[Account], cloud_of: Callable[[Account], Cloud], now: float) -> list[Seen]:
        """Each of the accounts, asked again if it is time. Never raises for what a provider does."""
        found: list[Seen] = []
        for account in accounts:
            key = AccountRecord.of(account).model_dump_json()
            seen = self._seen.get(key)
            # A clock that was set back does not put the next look off.
            if seen is None or not seen.at <= now < seen.at + seen.pause:
                seen = _looked(account, cloud_of, now, seen.pause if seen else LOOK_SECONDS)
                self._seen[key] = seen
            found.append(seen)
        return found

    def hurry(self) -> None:
        """Somebody new waits: the next looks come after a minute again."""
        for seen in self._seen.values():
            seen.pause = LOOK_SECONDS

    def nothing(self, seen: Iterable[Seen], now: float) -> float:
        """Nothing could be had at these, so they are asked less often; when the next look is."""
        for one in seen:
            if one.at == now:
                one.pause = min(2 * one.pause, LONGEST_LOOK_SECONDS)
        return min((one.at + one.pause for one in seen), default=now + LOOK_SECONDS)


def _looked(account: Account, cloud_of: Callable[[Account], Cloud], now: float, pause: float) -> Seen:
    try:
        cloud = cloud_of(account)
        candidates = tuple(Candidate(account, cloud, offer) for offer in cloud.offers())
        balance = cloud.balance() if cloud.capabilities.balance else None
    except UserError as e:
        return Seen(now, problem=str(e), pause=pause)
    return Seen(now, candidates, balance, pause=pause)
