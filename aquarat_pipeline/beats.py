"""A worker's heartbeat in Dagster's database, by which another machine can tell whether the worker is alive.

For a parked run, which has no worker, the follower writes it.

Only where the database is shared: SQLite files belong to one machine, which looks at process ids (`workers.py`). The
heartbeat is a row for each run in the table of keys and values, because a tag is written by reading all of a run's tags
first, which would lose those that another process writes meanwhile. Clocks of different machines are never compared:
the reader counts for how long it has seen the same heartbeat.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import dagster as dg

from aquarat_pipeline._compat import KeyValueStoreTable, SqliteRunStorage, SqlRunStorage
from aquarat_pipeline.workers import Worker, is_here, worker_of

BEAT_SECONDS = 5.0
LOST_SECONDS = 60.0
"""After so long a silence a worker on another machine counts as dead."""
_JOIN_SECONDS = 2.0


def is_shared(instance: dg.DagsterInstance) -> bool:
    """Whether other machines may use the instance's database."""
    return isinstance(instance.run_storage, SqlRunStorage) and not isinstance(instance.run_storage, SqliteRunStorage)


def last_beat(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """The run's last heartbeat, which differs from every earlier one; None without one."""
    return instance.daemon_cursor_storage.get_cursor_values({_key(run_id)}).get(_key(run_id))


def last_seen(instance: dg.DagsterInstance, run_id: str) -> float:
    """When the run's worker last wrote one, in seconds since 1970 by its own clock; 0 if none ever did."""
    beat = last_beat(instance, run_id) if is_shared(instance) else None
    return float(json.loads(beat)["time"]) if beat else 0.0


def forget(instance: dg.DagsterInstance, run_id: str) -> None:
    """Removes the run's heartbeat."""
    storage = instance.run_storage
    if isinstance(storage, SqlRunStorage) and is_shared(instance):
        with storage.connect() as connection:
            connection.execute(KeyValueStoreTable.delete().where(KeyValueStoreTable.c.key == _key(run_id)))


def beat_for(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> None:
    """Writes the heartbeats of parked runs, which this process follows, if the database is shared."""
    if is_shared(instance) and (beats := {_key(run_id): _text(time.time_ns()) for run_id in run_ids}):
        instance.daemon_cursor_storage.set_cursor_values(beats)


@contextmanager
def beating(instance: dg.DagsterInstance, run_id: str) -> Generator[None]:
    """Writes the run's heartbeat meanwhile, and removes it in the end, if the database is shared.

    Ends this process at once if a worker on another machine has taken the run over, which happens to one that was cut
    off or stood still for longer than `LOST_SECONDS`.
    """
    if not is_shared(instance):
        yield
        return
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(instance, run_id, ended), name=f"heartbeat {run_id}", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        # It may be waiting for the database.
        beats.join(_JOIN_SECONDS)
        with suppress(Exception):
            forget(instance, run_id)


def _beat(instance: dg.DagsterInstance, run_id: str, ended: threading.Event) -> None:
    number = 0
    while not ended.is_set():
        try:
            run = instance.get_run_by_id(run_id)
            other = worker_of(run.tags) if run else None
            if other and not is_here(other):
                _leave(run_id, other)
            number += 1
            if not ended.is_set():
                instance.daemon_cursor_storage.set_cursor_values({_key(run_id): _text(number)})
        except Exception as e:
            # What the database cannot do now, it may do five seconds later; a worker must not die of it.
            sys.stderr.write(f"the heartbeat of run {run_id} was not written: {e}\n")
        ended.wait(BEAT_SECONDS)


def _leave(run_id: str, other: Worker) -> None:
    sys.stderr.write(
        f"nothing was heard of this worker (pid {os.getpid()}) for too long: run {run_id} is now executed by "
        f"pid {other['pid']} on {other['host']}, and this one exits\n"
    )
    sys.stderr.flush()
    # If this process returned or raised in any way, Dagster would fail the run, which the other process executes.
    os._exit(0)


def _text(number: int) -> str:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "number": number, "time": time.time()})


def _key(run_id: str) -> str:
    return f"aquarat/heartbeat/{run_id}"


@dataclass(slots=True)
class _Seen:
    beat: str | None
    since: float
    looked: float


class Silence:
    """For how long each run's heartbeat has been the same, by this process's own clock."""

    def __init__(self, lost_seconds: float) -> None:
        self.lost_seconds = lost_seconds
        self._seen: dict[str, _Seen] = {}

    def of(self, run_id: str, beat: str | None) -> float:
        """Seconds for which the run's heartbeat has been this one.

        A long time between two looks does not count: the database may have been away, for the worker as well.
        """
        now = time.monotonic()
        seen = self._seen.get(run_id)
        if seen is None or seen.beat != beat or now - seen.looked > self.lost_seconds / 2:
            known = {other: s for other, s in self._seen.items() if now - s.looked <= self.lost_seconds / 2}
            seen = _Seen(beat, now, now)
            self._seen = known | {run_id: seen}
        seen.looked = now
        return now - seen.since
