"""The last pass of each reaper, kept in the store: `rentals/<installation>/reapers/<machine>.json`.

A reaper that nobody notices to be dead protects nothing. It writes there after its work, if it can reach the store, and
the control host complains while no other machine has looked at an account that may cost money. Nothing is ended, and
nothing is kept alive, because of what stands there.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquarat_core.agent.processes import boot_id
from aquarat_core.durations import duration
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.rental import Rental

FRESH_SECONDS = 1800.0
"""A reaper that was last seen longer ago counts as dead. Schedules of CI services are up to half an hour late."""
MAX_BYTES = 64 * 1024


class Look(BaseModel):
    """What one pass knew of one account."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    account: str
    cloud: str
    looked: bool
    """Its instances could be listed, and what was overdue could be asked to end."""


class Pass(BaseModel):
    """One pass of a reaper."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    version: Literal[1] = 1
    machine: str
    boot: str
    """The kernel's id of this boot of the machine: containers of one machine have names of their own, but die with
    it."""
    at: Annotated[float, Field(ge=0)]
    """By the machine's own clock."""
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A machine's last pass, and when the store got it, by the store's clock."""

    told: Pass
    written: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a process runs."""

    name: str
    boot: str


def this_machine(name: str | None = None) -> Machine:
    """This machine under its own name or another, made fit for a key in the store."""
    text = re.sub(r"[^A-Za-z0-9_.-]+", "-", name or socket.gethostname()).strip("-.")
    return Machine(text[:100] or "unnamed", boot_id())


def write(store: str, installation: str, told: Pass) -> None:
    """Replaces the machine's heartbeat. Raises `StoreError`, or another `UserError` if the store cannot be used."""
    from aquarat_core.artifacts.backends import open_backend

    open_backend(store).write(f"{_folder(installation)}{told.machine}.json", told.model_dump_json().encode())


def read(store: str, installation: str) -> list[Heartbeat]:
    """All heartbeats that can be read. Raises as `write`."""
    from aquarat_core.artifacts.backends import open_backend

    backend = open_backend(store)
    found: list[Heartbeat] = []
    for stat in backend.stats(_folder(installation)):
        held = backend.read(stat.key) if stat.size <= MAX_BYTES else None
        if held is not None:
            try:
                found.append(Heartbeat(Pass.model_validate_json(held.data), stat.modified))
            except ValidationError:
                continue  # by another version, or by somebody else
    return found


def _folder(installation: str) -> str:
    return f"rentals/{installation}/reapers/"


def accounts_at_risk(rentals: Iterable[Rental], config: RentConfig) -> frozenset[tuple[str, str]]:
    """The accounts, as (name, cloud), that cost money now or may do so without anybody's command."""
    open_now = {(r.order.account.name, r.order.account.cloud) for r in rentals if not r.final}
    sources = (source for pool in config.pools.values() if pool.automatic for source in pool.sources)
    return frozenset(open_now | {(one.account, config.accounts[one.account].cloud) for one in sources})


def why_unprotected(
    heartbeats: Sequence[Heartbeat], accounts: Collection[tuple[str, str]], here: Machine, now: float
) -> str | None:
    """A sentence if an account was not looked at from another machine lately, or None.

    On another machine an account may have another name: there, as many accounts of its cloud must be looked at as there
    are here.
    """
    others = [beat for beat in heartbeats if beat.told.machine != here.name and beat.told.boot != here.boot]
    fresh = [beat for beat in others if now - beat.written < FRESH_SECONDS]
    looks = {(look.account, look.cloud) for beat in fresh for look in beat.told.looks if look.looked}

    def covered(account: tuple[str, str]) -> bool:
        cloud = account[1]
        known = [one for one in looks if one[1] == cloud]
        return account in looks or len(known) >= sum(one[1] == cloud for one in accounts)

    open_to_loss = sorted(name for name, cloud in accounts if not covered((name, cloud)))
    if not open_to_loss:
        return None
    last = max(others, key=lambda beat: beat.written, default=None)
    seen = f"{last.told.machine} was there {duration(max(now - last.written, 0))} ago" if last else "none ever was"
    return (
        f"no second reaper has looked at {', '.join(open_to_loss)} for {FRESH_SECONDS / 60:.0f} min ({seen}): if this "
        "machine is lost, nothing ends what is rented there. Run `aquarat hosts reap --store` on another machine "
        "(docs/renting.md, A second reaper)"
    )
