"""The eval reports of a store, for pages that list them: manifests are read once, as they never change."""

from __future__ import annotations

import threading
import time
from pathlib import PurePosixPath
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore
from aquarat_core.artifacts.names import by_hash
from aquarat_core.artifacts.survey import read_artifacts
from aquarat_core.evaluation.looks import is_eval_report
from aquarat_core.serving.pages import NotFound

FRESH_SECONDS = 5.0
"""A listing of the store is used again for so long."""
PAGE = "report.html"
"""The record of a report that is its page."""


class Catalog:
    """The artifacts of a store by hash. It can be used from several threads."""

    def __init__(self, store_uri: str) -> None:
        self.store = ArtifactStore.open(store_uri)
        self._known: dict[str, Artifact] = {}
        self._unreadable: set[str] = set()
        self._there: list[str] = []
        self._listed = float("-inf")
        self._names: dict[str, list[str]] = {}
        self._named = float("-inf")
        self._lock = threading.Lock()

    def artifacts(self) -> list[Artifact]:
        """All artifacts whose manifest can be read, the newest first."""
        with self._lock:
            if time.monotonic() - self._listed > FRESH_SECONDS:
                self._there = [PurePosixPath(key).stem for key in self.store.backend.keys("manifests/")]
                seen = self._known.keys() | self._unreadable
                new = [sha256 for sha256 in self._there if sha256 not in seen]
                for sha256, found in read_artifacts(self.store, new).items():
                    if isinstance(found, Artifact):
                        self._known[sha256] = found
                    else:
                        self._unreadable.add(sha256)
                self._listed = time.monotonic()
            here = [self._known[sha256] for sha256 in self._there if sha256 in self._known]
        return sorted(here, key=lambda a: a.manifest.created, reverse=True)

    def reports(self) -> list[Artifact]:
        """The eval reports, the newest first."""
        return [a for a in self.artifacts() if is_eval_report(a)]

    def names_of(self, sha256: str | None) -> list[str]:
        """The names that people have given to an artifact."""
        with self._lock:
            if time.monotonic() - self._named > FRESH_SECONDS:
                self._names, self._named = by_hash(self.store), time.monotonic()
            return self._names.get(sha256 or "", [])

    def described(self, report: Artifact) -> dict[str, Any]:
        """A report as a line of a list shows it, with the names of the report and of its checkpoint."""
        found = described(report)
        return {**found, "names": self.names_of(report.sha256), "on_names": self.names_of(found["checkpoint_id"])}

    def find(self, what: str) -> Artifact:
        """The artifact of that asset, `EXPERIMENT/ASSET`, name, or (beginning of a) manifest hash. Raises
        `NotFound`."""
        with self._lock:
            if what in self._known:
                return self._known[what]
        try:
            found = self.store.find(what)
        except ArtifactError as e:
            raise NotFound(str(e)) from None
        if found is None:
            raise NotFound(f"the store {self.store.uri} has nothing called {what[:100]!r}: choose from the list")
        return found

    def report(self, what: str) -> Artifact:
        """The eval report of that name. Raises `NotFound`, also for artifacts that are none."""
        found = self.find(what)
        if not is_eval_report(found):
            raise NotFound(f"{found.asset} is a {found.manifest.kind}, not the eval report of a checkpoint")
        return found


def described(report: Artifact) -> dict[str, Any]:
    """A report as a line of a list shows it, from its manifest alone."""
    manifest = report.manifest
    about = [p for p in manifest.parents if p.asset.endswith("checkpoint")]
    checkpoint = about[0] if len(about) == 1 else None
    return {
        "id": report.sha256,
        "asset": report.asset,
        "profile": manifest.profile,
        "created": manifest.created,
        "checkpoint": checkpoint.asset if checkpoint else None,
        "checkpoint_id": checkpoint.manifest_sha256 if checkpoint else None,
        "accuracy": _share(manifest.metrics.get("accuracy")),
        "lo": _share(manifest.metrics.get("accuracy_lo")),
        "hi": _share(manifest.metrics.get("accuracy_hi")),
        "questions": manifest.metrics.get("n"),
        "page": any(entry.path == PAGE for entry in manifest.records),
    }


def _share(value: object) -> float | None:
    # A larger whole number is no share, and may not fit a float.
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and value in (0, 1)):
        return float(value)
    return None
