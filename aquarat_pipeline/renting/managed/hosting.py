"""What the keeper asks of the hosts themselves, over ssh, once a provider has told their address."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from aquarat_pipeline.renting.rental import Rental

Goal = Literal["reachable", "fit", "ready"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a host has come towards a goal."""

    done: bool = False
    unfit: str | None = None
    """Why it will never come there."""
    why: str = ""
    """What was found when it is done; before that, what keeps it."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a host was last known to do."""

    runs: Mapping[str, int]
    """Which runs use how many of its GPUs."""
    silent_seconds: float
    """Since its last sign of life."""
    unfit: str | None = None
    """Why it can no longer be used."""
    looked: float = math.inf
    """When the host was asked for its runs, in Unix seconds."""


class Hosts(Protocol):
    """The rented hosts. Each call returns within a second or two, and may be repeated: work goes on between them."""

    def advance(self, rental: Rental, goal: Goal) -> Progress:
        """Begins what the goal needs, or asks how far it is.

        `reachable`: its key is pinned, its dead man's switch armed. `fit`: its GPUs, driver and downloads are as they
        should be. `ready`: it is prepared and in the inventory.
        """
        ...

    def use(self, rental: Rental) -> Use: ...

    def drain(self, rental: Rental, why: str, stop: bool) -> bool:
        """Lets no new job begin; whether none is at work. With `stop`, those at work are asked to end."""
        ...

    def forget(self, rental: Rental) -> None:
        """Takes it out of the inventory, and closes connections to it. Never fails."""
        ...


class UnmanagedHosts:
    """For rentals that are only rented and ended: nothing is done on the hosts."""

    def advance(self, rental: Rental, goal: Goal) -> Progress:
        return Progress(unfit=f"this version cannot make {rental.name} {goal}")

    def use(self, rental: Rental) -> Use:
        return Use({}, 0.0)

    def drain(self, rental: Rental, why: str, stop: bool) -> bool:
        return True

    def forget(self, rental: Rental) -> None:
        return
