"""The job folders of a store, as a page lists them: which stages there are, since when, and how they are doing.

A job folder (`artifacts/job.py`) is what a training host sends while it works: heartbeats, output, progress messages.
Anyone who may write to the store may have written it, so every record is read within bounds.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from aquarat_core.artifacts import ArtifactStore, RecordError
from aquarat_core.artifacts.backend import Backend, Stat
from aquarat_core.artifacts.bounded import printable
from aquarat_core.artifacts.records import read_job_record
from aquarat_core.artifacts.transfer import parallel_map

MAX_JOBS = 60
"""Jobs that are listed, the latest ones."""
LISTING_SHARE = 20
"""A listing is used for so many times as long as it took, so that a large bucket is not listed all the time."""
LEAST_SECONDS = 2.0
SILENT_SECONDS = 90.0
"""Without a heartbeat for so long, a host counts as silent."""
_JOB = re.compile(r"jobs/([^/]+)/([^/]+)/(\d{1,9})/(.+)")
_CHUNK = re.compile(r"output/node0/(\d{1,9})\.json")


@dataclass
class Folder:
    """One attempt at one step, as the listing shows it; times are in seconds since 1970."""

    run: str
    step: str
    attempt: int
    objects: dict[str, float] = field(default_factory=dict[str, float])
    """When each object was written, but for the output."""
    chunks: int = 0
    """Number of chunks of output of the first host."""
    first_output: float | None = None
    last_output: float | None = None

    @property
    def id(self) -> str:
        return f"{self.run}/{self.step}/{self.attempt}"

    @property
    def started(self) -> float:
        return min(self.objects.values(), default=0.0)

    @property
    def changed(self) -> float:
        return max([*self.objects.values(), self.last_output or 0.0])

    def add(self, name: str, stat: Stat) -> None:
        """Takes note of an object in the folder."""
        if found := _CHUNK.fullmatch(name):
            self.chunks = max(self.chunks, int(found[1]))
            self.first_output = min(self.first_output or stat.modified, stat.modified)
            self.last_output = max(self.last_output or 0.0, stat.modified)
        elif not name.startswith("output/"):
            self.objects[name] = stat.modified


def folders(stats: Iterable[Stat]) -> list[Folder]:
    """The job folders in a listing of `jobs/`, the latest first."""
    found: dict[tuple[str, str, int], Folder] = {}
    for stat in stats:
        if match := _JOB.fullmatch(stat.key):
            key = match[1], match[2], int(match[3])
            found.setdefault(key, Folder(*key)).add(match[4], stat)
    return sorted(found.values(), key=lambda f: f.changed, reverse=True)


class Jobs:
    """The jobs of a store. It can be used from several threads."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self._found: list[Folder] = []
        self._left_out = 0
        self._again = float("-inf")
        self._records: dict[str, tuple[float, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def latest(self) -> tuple[list[Folder], int]:
        """The latest jobs, and how many older ones are left out."""
        with self._lock:
            began = time.monotonic()
            if began > self._again:
                found = folders(self.store.backend.stats("jobs/"))
                self._found, self._left_out = found[:MAX_JOBS], max(0, len(found) - MAX_JOBS)
                took = time.monotonic() - began
                self._again = began + max(LEAST_SECONDS, LISTING_SHARE * took)
            return self._found, self._left_out

    def find(self, id: str) -> Folder | None:
        """The job with that id, if it is among the latest."""
        return next((folder for folder in self.latest()[0] if folder.id == id), None)

    def states(self) -> list[dict[str, Any]]:
        """What the page says of each job, the latest first."""
        return parallel_map(self._state, self.latest()[0])

    def record(self, folder: Folder, name: str) -> dict[str, Any]:
        """An object of the folder; empty if there is none. Raises `RecordError` if it is damaged."""
        if name not in folder.objects:
            return {}
        key = f"jobs/{folder.id}/{name}"
        with self._lock:
            if (known := self._records.get(key)) and known[0] == folder.objects[name]:
                return known[1]
        value = read_record(self.store.backend, key, name)
        with self._lock:
            self._records[key] = folder.objects[name], value
            while len(self._records) > 8 * MAX_JOBS:
                self._records.pop(next(iter(self._records)))
        return value

    def _state(self, folder: Folder) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "id": folder.id,
            "run": folder.run,
            "stage": folder.step,
            "attempt": folder.attempt,
            "started": folder.started,
            "changed": folder.changed,
        }
        try:
            facts |= self._described(folder)
        except RecordError as e:
            facts |= {"state": "damaged", "why": printable(str(e))}
        return facts

    def _described(self, folder: Folder) -> dict[str, Any]:
        launch = self.record(folder, "launch.json")
        spec = cast("Mapping[str, Any]", launch.get("spec") or {})
        hosts = cast("list[object]", self.record(folder, "hosts.json").get("hosts") or [])
        return {
            "profile": printable(str(spec.get("profile", ""))),
            "hosts": [printable(str(host)) for host in hosts[:8]],
            **self._ending(folder),
        }

    def _ending(self, folder: Folder) -> dict[str, Any]:
        """`state`, and `why` where something went wrong."""
        if "result.json" in folder.objects:
            result = self.record(folder, "result.json")
            if result.get("ok"):
                return {"state": "finished", "artifact": result.get("manifest_sha256")}
            error = cast("Mapping[str, Any]", result.get("error") or {})
            state = "stopped" if error.get("type") == "Stopped" else "failed"
            return {"state": state, "why": shortened(str(error.get("message", "")))}
        if "superseded.json" in folder.objects:
            return {"state": "replaced", "why": "another attempt continues this one"}
        statuses = [name for name in folder.objects if name.startswith("status/")]
        beat = max((folder.objects[name] for name in statuses), default=None)
        for name in statuses:
            status = self.record(folder, name)
            if status.get("state") == "ended":
                code, why = status.get("code"), status.get("reason")
                return {"state": "failed", "why": shortened(str(why or f"its process ended with {code}"))}
        if "cancel.json" in folder.objects:
            return {"state": "stopping", "why": shortened(str(self.record(folder, "cancel.json").get("reason", "")))}
        if beat is None:
            return {"state": "starting" if time.time() - folder.changed < SILENT_SECONDS else "silent",
                    "why": "no host has begun with it"}  # fmt: skip
        if (silent := time.time() - beat) > SILENT_SECONDS:
            return {"state": "silent", "why": f"the last heartbeat is {silent / 60:.0f} minutes old"}
        return {"state": "running"}


def read_record(backend: Backend, key: str, name: str) -> dict[str, Any]:
    """The object at `key`, called `name` in its job folder; empty if there is none. Raises `RecordError`."""
    found = backend.read(key)
    value: object = None if found is None else read_job_record(found.data, f"{backend.uri}/{key}", name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def shortened(text: str) -> str:
    """The beginning of a message from a job, in printable characters."""
    lines = [printable(line) for line in text.strip().splitlines()[:6]]
    return "\n".join(lines)[:1200]
