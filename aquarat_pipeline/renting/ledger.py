"""The ledger: what was ordered from clouds, and what became of it, in files that are created once and never changed.

    DAGSTER_HOME/aquarat/installation               whose rentals these are; part of every name
    DAGSTER_HOME/aquarat/rentals/<rental>/order.json
    DAGSTER_HOME/aquarat/rentals/<rental>/events/000001.json ...

A rental's state is the fold of its events (`rental.py`). Creating the next number decides between two writers: one of
them gets `Conflict` and reads again. Every file is on the disk, with its name, before the writer continues.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aquarat_core.errors import UserError
from aquarat_core.plain_text import one_line
from aquarat_pipeline.renting import names
from aquarat_pipeline.renting.rental import AccountRecord, Event, IllegalTransition, Rental, RentalOrder, State

MAX_BYTES = 1 << 20
"""Size limit for a file of the ledger."""
MAX_WHY = 2000
"""Characters of a reason. Providers and hosts, which write some of them, may say anything."""


class LedgerError(UserError):
    """A ledger that cannot be read or written; the message says which file, and why."""


class Conflict(Exception):
    """Another process wrote the rental's next event first: read the rental again."""


@dataclass(frozen=True, slots=True)
class _Extent:
    """Tells a rental's files from those of another time, even if the folder was put back from a backup."""

    order: int
    events: int
    last: int
    """When the newest file came to be what it is, in nanoseconds; the same for the order."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """All rentals, the oldest first, and a sentence for each that cannot be read: it may cost money."""

    rentals: tuple[Rental, ...]
    problems: tuple[str, ...]
    damaged: tuple[AccountRecord, ...] = ()
    """The accounts of rentals that cannot be read, as far as their orders tell."""


class Ledger:
    """The ledger of one DAGSTER_HOME."""

    def __init__(self, home: Path) -> None:
        self._home = home / "aquarat"
        self._rentals = self._home / "rentals"
        self._by = f"{socket.gethostname()}:{os.getpid()}"
        self._known: dict[str, tuple[_Extent, Rental]] = {}

    def installation(self) -> str:
        """Whose rentals these are; chosen at the first call. Raises `LedgerError`."""
        path = self._home / "installation"
        if not path.exists():
            make_folder(self._home)
            with suppress(FileExistsError):
                create_durably(path, names.new_installation())
        name = _read(path)
        try:
            names.RentalName(name, "0" * 8, 0)
        except (ValueError, TypeError):
            raise LedgerError(f"{path} is damaged: it should hold the six letters and digits of your rentals") from None
        return name

    def folder(self, rental: str) -> Path:
        return self._rentals / rental

    def order(self, order: RentalOrder) -> Rental:
        """Records the order before anything is asked. Raises `Conflict` if there is one of that name."""
        folder = self.folder(order.rental)
        make_folder(folder / "events")
        try:
            create_durably(folder / "order.json", order.model_dump(mode="json"))
        except FileExistsError:
            raise Conflict(order.name) from None
        return Rental.of(order, ())

    def append(self, rental: Rental, state: State, at: float, why: str = "", **facts: Any) -> Rental:
        """The rental with one more event, which is written first.

        Raises `Conflict`, and `IllegalTransition` if this state cannot follow.
        """
        given: Mapping[str, Any] = {"state": state, "at": at, "why": one_line(why)[:MAX_WHY], "by": self._by, **facts}
        event = Event.model_validate(given)
        following = rental.followed_by(event)
        path = self.folder(rental.id) / "events" / f"{len(following.events):06}.json"
        try:
            create_durably(path, event.model_dump(mode="json", exclude_defaults=True))
        except FileExistsError:
            raise Conflict(rental.id) from None
        return following

    def read(self, rental: str) -> Rental:
        """Raises `LedgerError`. Files that were read once are not read again, because they never change."""
        folder = self.folder(rental)
        try:
            order = os.stat(folder / "order.json")
            found = sorted(name for name in os.listdir(folder / "events") if not name.startswith("."))
            last = os.stat(folder / "events" / found[-1]) if found else order
        except OSError as e:
            raise LedgerError(f"{folder} cannot be read: {e}") from None
        extent = _Extent(order.st_ctime_ns, len(found), last.st_ctime_ns)
        known = self._known.get(rental)
        if known is None or known[0] != extent:
            known = extent, self._read(folder, found)
            self._known[rental] = known
        return known[1]

    def _read(self, folder: Path, names_found: list[str]) -> Rental:
        events = str(folder / "events")  # there are thousands: as paths they would take most of the time
        try:
            order = RentalOrder.model_validate(_read(folder / "order.json"))
            if order.rental != folder.name:
                raise LedgerError(f"{folder}: its order is of another rental, {order.rental}")
            if names_found != [f"{n:06}.json" for n in range(1, len(names_found) + 1)]:
                raise LedgerError(f"{folder}: events are missing")
            return Rental.of(order, [Event.model_validate(_read(f"{events}/{name}")) for name in names_found])
        except ValidationError as e:
            problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in e.errors())
            raise LedgerError(f"{folder} cannot be read: {problems}") from None
        except IllegalTransition as e:
            raise LedgerError(f"{folder} cannot be read: {e}") from None

    def load(self) -> Loaded:
        """All rentals. Never raises for a single one: a folder without an order was never asked for, and others are
        problems."""
        rentals: list[Rental] = []
        problems: list[str] = []
        damaged: list[AccountRecord] = []
        try:
            found = sorted(os.listdir(self._rentals))
        except FileNotFoundError:
            found = []
        except OSError as e:
            # Not an empty ledger: what is in it costs money.
            return Loaded((), (f"{self._rentals} cannot be read: {e}",))
        for name in found:
            if not _may_exist(f"{self._rentals}/{name}/order.json"):
                continue
            try:
                rentals.append(self.read(name))
            except LedgerError as e:
                problems.append(str(e))
                with suppress(LedgerError, ValidationError, TypeError, KeyError):
                    damaged.append(AccountRecord.model_validate(_read(self.folder(name) / "order.json")["account"]))
        rentals.sort(key=lambda rental: (rental.order.ordered, rental.id))
        return Loaded(tuple(rentals), tuple(problems), tuple(damaged))


def create_durably(path: Path, obj: object) -> None:
    """Creates a small JSON file that is on the disk, with its name, at return. Raises `FileExistsError`.

    A power cut or a kill leaves the whole file or none, besides a hidden one. Raises `LedgerError` for what could not
    be read again.
    """
    data = json.dumps(obj)
    if len(data) > MAX_BYTES:
        raise LedgerError(f"{path} would have {len(data)} bytes, and {MAX_BYTES} are allowed: it was not written")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Creates `folder` and its parents durably, for this user only."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _fsync_folder(folder.parent)


def _may_exist(path: str) -> bool:
    """False only if there certainly is no such file."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _fsync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read(path: Path | str) -> Any:
    try:
        with open(path, "rb", buffering=0) as f:
            data = f.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError("it is too large")
        return json.loads(data)
    except (OSError, ValueError, RecursionError) as e:
        raise LedgerError(f"{path} cannot be read: {e}") from None
