"""What anybody on the control host can know about rentals without asking a cloud: ledger, rent.yaml and heartbeats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aquarat_core.errors import UserError
from aquarat_pipeline.renting import heartbeats
from aquarat_pipeline.renting.config import FILE, RentConfig, RentConfigError, read_config
from aquarat_pipeline.renting.heartbeats import Machine
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
    unprotected: str | None
    """Why the loss of this machine would leave something running for good."""


def anything_here(home: Path) -> bool:
    """Whether anything was ever rented from here, or may be by rent.yaml."""
    return (home / FILE).exists() or next((home / "aquarat" / "rentals").glob("*/order.json"), None) is not None


def known(ledger: Ledger, home: Path, store: str, here: Machine, now: float) -> Known:
    """Reads what there is. Never raises for what is broken."""
    loaded = ledger.load()
    config, broken = RentConfig(), None
    try:
        config = read_config(home)
    except RentConfigError as e:
        broken = str(e)
    unprotected = _unprotected(ledger, loaded.rentals, config, store, here, now)
    return Known(now, loaded.rentals, loaded.problems, config, broken, unprotected)


def _unprotected(
    ledger: Ledger, rentals: tuple[Rental, ...], config: RentConfig, store: str, here: Machine, now: float
) -> str | None:
    """Does not read the store while nothing can cost money."""
    at_risk = heartbeats.accounts_at_risk(rentals, config)
    if not at_risk:
        return None
    try:
        beats = heartbeats.read(store, ledger.installation())
    except UserError as e:
        return f"nobody knows whether a second reaper is at work, because its heartbeat cannot be read: {e}"
    return heartbeats.why_unprotected(beats, at_risk, here, now)
