"""Ends instances that have outlived the end in their name. Needs nothing but an account's key: no ledger, no store.

It runs where the keeper does not, so that the loss of the control host costs no more than the time up to that end.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from aquarat_pipeline.renting.clouds.cloud import Cloud
from aquarat_pipeline.renting.clouds.model import CloudError, Listing
from aquarat_pipeline.renting.sight import Listed, ours

GRACE_SECONDS = 300
"""The keeper, which knows more, comes first."""


@dataclass
class Reaped:
    """What one pass over one account found and did; sentences are for people."""

    account: str
    ours: int = 0
    foreign: int = 0
    asked: list[str] = field(default_factory=list[str])
    """Names of those that were asked to end. Whether they did is seen in the next pass."""
    problems: list[str] = field(default_factory=list[str])


def overdue(listing: Listing, installations: Collection[str], now: float) -> list[Listed]:
    """Instances whose whole name parses, whose installation is one of these, and whose end is past."""
    return [found for found in ours(listing, installations) if now >= found.name.end + GRACE_SECONDS]


def reap(cloud: Cloud, installations: Collection[str], now: float, dry_run: bool = False) -> Reaped:
    """One pass. A failure becomes a problem, and the others are still asked to end."""
    done = Reaped(cloud.account)
    try:
        listing = cloud.list()
    except CloudError as e:
        done.problems.append(f"{cloud.account} could not be looked at: {e}")
        return done
    known = ours(listing, installations)
    alive = sum(instance.state != "ended" for instance in listing.instances) + len(listing.unreadable)
    done.ours, done.foreign = len(known), alive - len(known)
    if not listing.complete:
        done.problems.append(f"{cloud.account} lists an instance without id and name: look at it in its dashboard")
    for found in overdue(listing, installations, now):
        if not dry_run:
            try:
                answer = cloud.terminate(found.id)
            except CloudError as e:
                done.problems.append(f"{found.name} could not be ended: {e}")
                continue
            if answer.answer == "refused":
                done.problems.append(f"{found.name} could not be ended: {answer.why}")
                continue
        done.asked.append(str(found.name))
    return done
