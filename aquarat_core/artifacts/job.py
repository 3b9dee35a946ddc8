"""The folder of one attempt at one step, `jobs/<run>/<step>/<attempt>/`: small JSON objects, each written atomically.

These objects are the whole protocol between the control host and a GPU host: spec, claim, status, cancel and result.
Either side can die and resume, because each object is there completely or not at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from aquarat_core.artifacts.backend import Backend
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.errors import StoreError
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.artifacts.records import read_job_record

_SEGMENT = re.compile(r"[A-Za-z0-9_\[\]-][A-Za-z0-9_.\[\]-]*")


@dataclass(frozen=True, slots=True)
class JobDir:
    """Names are relative to the folder, like `spec.json` or `status/node0.json`; objects are JSON values."""

    backend: Backend
    prefix: str

    @classmethod
    def at(cls, uri: str) -> JobDir:
        """The folder with that URI, `<store>/jobs/<run>/<step>/<attempt>`. Raises `StoreError` for any other URI."""
        match = re.fullmatch(r"(.+)/(jobs/[^/]+/[^/]+/\d+)", uri)
        if match is None:
            raise StoreError(f"{uri!r} is not the URI of a job: <store>/jobs/<run>/<step>/<attempt>")
        return cls(open_backend(match[1]), _checked(match[2]))

    @property
    def uri(self) -> str:
        return f"{self.backend.uri}/{self.prefix}"

    def write_json(self, name: str, obj: Any) -> None:
        """Writes or replaces the object; the last writer wins."""
        self.backend.write(self._key(name), canonical(obj))

    def create_json(self, name: str, obj: Any) -> bool:
        """Creates the object unless it exists; of any number of writers, exactly one gets True."""
        return self.backend.create(self._key(name), canonical(obj))

    def read_json(self, name: str) -> Any | None:
        """The object, or None if it does not exist. Raises `RecordError` if it is damaged."""
        found = self.backend.read(self._key(name))
        return None if found is None else read_job_record(found.data, f"{self.uri}/{name}", name)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{_checked(name)}"


def job_dir(backend: Backend, run_id: str, step_key: str, attempt: int) -> JobDir:
    return JobDir(backend, "/".join(["jobs", _checked(run_id), _checked(step_key), str(attempt)]))


def _checked(path: str) -> str:
    if not all(_SEGMENT.fullmatch(part) for part in path.split("/")):
        raise StoreError(f"{path!r} cannot name a job or an object in it: letters, digits and _ - . [ ] only")
    return path
