"""What the keeper says of each step that waits for a host, in a file: workers, who never speak with a cloud, read it.

`DAGSTER_HOME/aquarat/renting.json` is only believed while the keeper that wrote it lives.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from aquarat_core.agent import processes
from aquarat_core.durations import duration


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence about a step."""

    text: str
    since: float | None = None
    """Seconds since 1970 from which its last words hold. Said apart, because the time goes on and the text stays."""

    def lasting(self, now: float) -> str:
        """` for 3 min`, or nothing."""
        return "" if self.since is None or now - self.since < 1 else f" for {duration(now - self.since)}"


@dataclass(frozen=True, slots=True)
class _Board:
    process: dict[str, Any]
    steps: dict[str, Notice] = field(default_factory=dict[str, Notice])


_BOARD = TypeAdapter(_Board)


def _path(home: Path) -> Path:
    return home / "aquarat" / "renting.json"


def _name(run_id: str, step: str) -> str:
    return f"{run_id}/{step}"


def write(home: Path, notices: Mapping[tuple[str, str], Notice]) -> None:
    """Replaces all notices by those of this process, by run and step."""
    steps = {_name(*who): asdict(notice) for who, notice in notices.items()}
    processes.write_durably(_path(home), {"process": processes.identity(os.getpid()), "steps": steps})


def read(home: Path, run_id: str, step: str) -> Notice | None:
    """What a living keeper says of the step, if anything."""
    try:
        board = _BOARD.validate_json(_path(home).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return board.steps.get(_name(run_id, step)) if processes.is_alive(board.process) else None
