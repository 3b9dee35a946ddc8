"""The rented hosts that are ready for jobs: one record each, `DAGSTER_HOME/aquarat/rentals/<rental>/host.json`.

They are not in hosts.yaml, because that file is written by people, and because a worker that started before a new
version would refuse a field that it does not know. A record that cannot be used only leaves out its own host.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aquarat_core.agent import processes
from aquarat_pipeline.hosts.host import RentedHost, problems_of
from aquarat_pipeline.hosts.transports import SshTransport

RECORD = "host.json"


@dataclass(frozen=True, slots=True)
class Rentals:
    """The rented hosts in the order of their rentals, and a sentence for each record that cannot be used."""

    hosts: tuple[RentedHost, ...]
    problems: tuple[str, ...]


def folder_of(home: Path, rental: str = "") -> Path:
    """The folder of that rental, or of all of them."""
    return home / "aquarat" / "rentals" / rental


def read(home: Path, taken: Collection[str] = ()) -> Rentals:
    """All rented hosts that are ready; those whose names are `taken` are left out. Never raises for a bad record."""
    hosts: list[RentedHost] = []
    problems: list[str] = []
    names = set(taken)
    for path in sorted(folder_of(home).glob(f"*/{RECORD}")):
        try:
            host = _read(path)
            if host.name in names:
                raise ValueError(f"another host is named {host.name}")
        except FileNotFoundError as e:
            if path.exists():
                problems.append(f"the rental {path.parent.name} is left out: {e.filename} is missing")
        except ValidationError as e:
            problems.append(f"the rental {path.parent.name} is left out: {path}: {problems_of(e, 'the record')}")
        except (OSError, ValueError, RecursionError) as e:
            problems.append(f"the rental {path.parent.name} is left out: {path}: {e}")
        else:
            names.add(host.name)
            hosts.append(host)
    return Rentals(tuple(hosts), tuple(problems))


def find(home: Path, rental: str) -> RentedHost | None:
    """The record of that rental; None if it has none that can be used."""
    try:
        return _read(folder_of(home, rental) / RECORD)
    except (OSError, ValueError, RecursionError):
        return None


def _read(path: Path) -> RentedHost:
    given: Any = json.loads(path.read_bytes())
    if not isinstance(given, dict):
        raise ValueError("it is not a JSON object")
    host = RentedHost.model_validate(given | {"folder": path.parent})
    for name in (host.identity, host.known_hosts):
        (host.folder / name).stat()
    return host


def write(host: RentedHost) -> None:
    """Writes the host's record durably: from now on the inventory has it. Its key and known_hosts must be there."""
    processes.write_durably(host.folder / RECORD, host.model_dump(mode="json"))


def remove(host: RentedHost) -> None:
    """Takes the host out of the inventory and ends the shared connection to it, with every call that uses it."""
    with suppress(FileNotFoundError):
        (host.folder / RECORD).unlink()
    SshTransport(host).close()
