"""Reads runs from Dagster's SQLite files, for commands that cannot wait for the import of Dagster.

It takes as long as everything else that `aquarat status` does. The tables are those of the pinned minor version, and a
test reads what Dagster has written. A home whose `dagster.yaml` names other storage cannot be read like this.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aquarat_core.config import strict_yaml
from aquarat_core.errors import UserError

UNFINISHED = ("QUEUED", "STARTING", "STARTED", "CANCELING")
"""The states of runs that wait or run."""
WAIT_SECONDS = 2.0
"""How long a database that is being written to is waited for."""
DAEMON = "QUEUED_RUN_COORDINATOR"
"""The daemon that starts queued runs."""
_STEP_EVENTS = ("STEP_START", "STEP_SUCCESS", "STEP_FAILURE", "STEP_UP_FOR_RETRY", "STEP_RESTARTED")


class RecordsError(UserError):
    """Records that cannot be read like this; the message says why and what shows them."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as recorded."""

    run_id: str
    status: str
    job: str
    assets: tuple[str, ...]
    """Names of the assets that it makes, as users write them; empty if it makes all those of its job."""
    created: float
    """Seconds since 1970, like all times here."""
    started: float | None
    ended: float | None
    tags: Mapping[str, str]


@dataclass(slots=True)
class Step:
    """A step of a run that has started."""

    key: str
    began: float
    ended: float | None = None


class Records:
    """The records in a Dagster home. Raises `RecordsError` where they cannot be read."""

    def __init__(self, home: Path) -> None:
        self._history = home / "history"
        _check_storage(home / "dagster.yaml")

    def runs(self, since: float) -> list[Run]:
        """Runs that have not ended, and those that have ended after `since`; the latest first."""
        marks = ", ".join("?" * len(UNFINISHED))
        query = (
            "SELECT run_id, status, pipeline_name, run_body, create_timestamp, start_time, end_time FROM runs "
            f"WHERE status IN ({marks}) OR end_time > ? ORDER BY id DESC"
        )
        with self._open("runs.db") as runs:
            if runs is None:
                return []
            rows = runs.execute(query, (*UNFINISHED, since)).fetchall()
            found: list[Run] = []
            for run_id, status, job, body, created, started, ended in rows:
                tags = dict(runs.execute("SELECT key, value FROM run_tags WHERE run_id = ?", (run_id,)))
                made = datetime.fromisoformat(created).replace(tzinfo=UTC).timestamp()
                found.append(Run(run_id, status, job, _assets(body), made, started, ended, tags))
            return found

    def steps(self, run_id: str) -> list[Step]:
        """The run's steps that have started, in that order."""
        marks = ", ".join("?" * len(_STEP_EVENTS))
        query = (
            f"SELECT dagster_event_type, step_key, timestamp FROM event_logs WHERE dagster_event_type IN ({marks}) "
            "ORDER BY id"
        )
        steps: dict[str, Step] = {}
        with self._open(f"runs/{run_id}.db") as events:
            for kind, key, when in events.execute(query, _STEP_EVENTS) if events else ():
                moment = datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()
                if kind in ("STEP_START", "STEP_RESTARTED"):
                    steps[key] = Step(key, moment)
                elif key in steps:
                    steps[key].ended = moment
        return list(steps.values())

    def last_line(self, run_id: str) -> str:
        """The last line that the run has logged, which says what it waits for, if it waits; empty without one."""
        query = "SELECT event FROM event_logs WHERE dagster_event_type IS NULL ORDER BY id DESC LIMIT 1"
        with self._open(f"runs/{run_id}.db") as events:
            row = events.execute(query).fetchone() if events else None
        return str(json.loads(row[0]).get("user_message") or "") if row else ""

    def daemon_beat(self) -> float | None:
        """When the daemon that starts queued runs last reported; None if there never was one."""
        with self._open("runs.db") as runs:
            query = "SELECT timestamp FROM daemon_heartbeats WHERE daemon_type = ?"
            row = runs.execute(query, (DAEMON,)).fetchone() if runs else None
        return datetime.fromisoformat(row[0]).replace(tzinfo=UTC).timestamp() if row else None

    @contextmanager
    def _open(self, name: str) -> Generator[sqlite3.Connection | None]:
        """A database, only to read; None if nothing was ever recorded in it."""
        path = self._history / name
        if not path.exists():
            yield None
            return
        try:
            uri = f"{path.resolve().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS)) as connection:
                yield connection
        except sqlite3.Error as e:
            raise RecordsError(f"{path} cannot be read ({e}): `dagster run list` shows the runs") from None


def _check_storage(path: Path) -> None:
    try:
        settings: Any = strict_yaml.load(path)
    except (OSError, strict_yaml.YamlError):
        return  # without settings, Dagster uses SQLite; Dagster itself complains about unusable ones
    named = {"storage", "run_storage", "event_log_storage"} & set(settings or {})
    if named:
        raise RecordsError(
            f"runs are not shown, because {path} has `{min(named)}`: they are not in the SQLite files of this home. "
            "The UI and `dagster run list` show them"
        )


def _assets(body: str) -> tuple[str, ...]:
    selection: Any = json.loads(body).get("asset_selection") or {}
    return tuple(sorted("/".join(key["path"]) for key in selection.get("__frozenset__", ())))
