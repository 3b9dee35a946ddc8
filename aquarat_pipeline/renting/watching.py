"""What anybody on the control host can know about rentals without asking a cloud: ledger, rent.yaml and heartbeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aquarat_core.errors import UserError
from aquarat_pipeline.renting import heartbeats, keeping
from aquarat_pipeline.renting.config import FILE, RentConfig, RentConfigError, read_config
from aquarat_pipeline.renting.heartbeats import Heartbeat, Machine
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.rental import Rental


@dataclass(frozen=True, slots=True)
class Known:
    """The state at one time."""

    now: float
    rentals: tuple[Rental, ...]
    problems: tuple[str, ...]
    """What of the ledger cannot be read; each may cost money."""
    config: RentConfig
    broken: str | None
    """Why rent.yaml cannot be used."""
    kept: bool
    """A keeper is at work."""
    unprotected: str | None
    """Why the loss of this machine would leave something running for good."""

    @property
    def open(self) -> tuple[Rental, ...]:
        """Those that cost money, or may do so."""
        return tuple(rental for rental in self.rentals if not rental.final)


def anything_here(home: Path) -> bool:
    """Whether anything was ever rented from here, or may be by rent.yaml."""
    return (home / FILE).exists() or next((home / "aquarat" / "rentals").glob("*/order.json"), None) is not None


def known(ledger: Ledger, home: Path, beats: Callable[[str], Sequence[Heartbeat]], here: Machine, now: float) -> Known:
    """Reads what there is. Never raises for what is broken.

    `beats` reads the heartbeats of an installation's reapers; it is not called while nothing can cost money.
    """
    loaded = ledger.load()
    config, broken = RentConfig(), None
    try:
        config = read_config(home)
    except RentConfigError as e:
        broken = str(e)
    unprotected = None
    if at_risk := heartbeats.accounts_at_risk(loaded.rentals, config):
        try:
            unprotected = heartbeats.why_unprotected(beats(ledger.installation()), at_risk, here, now)
        except UserError as e:
            unprotected = f"nobody knows whether a second reaper is at work, because its heartbeat cannot be read: {e}"
    return Known(now, loaded.rentals, loaded.problems, config, broken, keeping.is_alive(home), unprotected)


def known_here(home: Path, store: str, now: float) -> Known:
    """`known` to a command on this machine."""
    return known(Ledger(home), home, partial(heartbeats.read, store), heartbeats.this_machine(), now)
