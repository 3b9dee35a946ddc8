"""Curves by step: of a running stage from its progress messages, of a stored checkpoint from its `metrics.jsonl`.

A stage writes `metrics.jsonl` on the host where it runs, and publishes it when it ends. Until then its job folder has
the headline metrics, at most two rows a second, in chunks of output. They are numbered, so a page asks only for those
after the ones that it has.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from aquarat_core.artifacts import Artifact, RecordError
from aquarat_core.artifacts.bounded import printable
from aquarat_core.artifacts.transfer import parallel_map
from aquarat_core.errors import DataError
from aquarat_core.evaluation.plots import PANELS, drawn
from aquarat_core.serving.runs.folders import Folder, Jobs, read_record
from aquarat_core.serving.runs.messages import object_in, progress_message, whole_number

METRICS = "metrics.jsonl"
MAX_BYTES = 256 << 20
MAX_CHUNKS = 400
"""Chunks of a job that are read at a time. Of a longer job that a page opens, evenly many are read and its last."""
LAST_CHUNKS = 20
MAX_ROWS = 1500
"""Rows that are sent at a time; of more, evenly many."""
READERS = 16
KEPT = 32
SHOWN = (
    *PANELS,
    ("Learning rate", "share of its peak", ("train/lr_factor", "rl/lr_factor")),
    ("Throughput", "tokens per second", ("train/tokens_per_second",)),
    ("Time of a step", "seconds", ("time/step",)),
)
"""The charts: title, unit, metrics."""
_NAMES = tuple(name for _, _, names in SHOWN for name in names)
Row = tuple[int, dict[str, float]]
"""A step and its metrics."""


class Curves:
    """Reads curves; of finished jobs and stored checkpoints, those read last are kept. Usable from several threads."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._progress: OrderedDict[str, tuple[int, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def of_job(self, folder: Folder, after: int) -> dict[str, Any]:
        """The rows in the chunks after number `after`, and the number from which to go on."""
        numbers = _chosen(after, folder.chunks)
        chunks = parallel_map(lambda n: self._messages(folder, n), numbers, READERS)
        messages = [message for chunk in chunks for message in chunk]
        rows = [(int(m["done"]), _known(m["metrics"])) for m in messages]
        return {
            "rows": thinned([row for row in rows if row[1]]),
            "next": folder.chunks,
            "progress": _said(messages[-1]) if messages else None,
        }

    def progress(self, folder: Folder) -> dict[str, Any] | None:
        """How far a job is, from its newest message, with the seconds that it needs if it goes on like this."""
        with self._lock:
            known = self._progress.get(folder.id)
        if known is None or known[0] != folder.chunks:
            numbers = range(folder.chunks, max(0, folder.chunks - 5), -1)
            found = next((m[-1] for n in numbers if (m := self._messages(folder, n))), None)
            said = _said(found) if found else (known[1] if known else {})
            with self._lock:
                self._progress[folder.id] = folder.chunks, said
                while len(self._progress) > 4 * KEPT:
                    self._progress.popitem(last=False)
            known = folder.chunks, said
        if not known[1]:
            return None
        return {**known[1], "eta": known[1].get("eta") or _estimate(folder, known[1])}

    def _messages(self, folder: Folder, number: int) -> list[dict[str, Any]]:
        """The progress messages in a chunk; none in one that is damaged."""
        name = f"output/node0/{number:06d}.json"
        try:
            chunk = read_record(self._jobs.store.backend, f"jobs/{folder.id}/{name}", name)
        except RecordError:
            return []
        return [m for one in chunk.get("messages", []) if (m := progress_message(one)) is not None]


def of_artifact(artifact: Artifact) -> dict[str, Any]:
    """The curves of a stored checkpoint. Raises `DataError` if it has none, or they cannot be read."""
    entry = next((entry for entry in artifact.manifest.records if entry.path == METRICS), None)
    if entry is None:
        raise DataError(f"{artifact.asset} {artifact.sha256[:12]} keeps no {METRICS}: only trained checkpoints do")
    if entry.size > MAX_BYTES:
        raise DataError(f"{METRICS} of {artifact.asset} has {entry.size:,} bytes, over {MAX_BYTES:,}")
    rows: list[Row] = []
    with artifact.record(METRICS).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue  # the line of a process that was killed
            if (step := whole_number(object_in(row).get("step"))) is not None:
                rows.append((step, _known(object_in(row))))
    return {"rows": thinned([row for row in rows if row[1]]), "next": 0, "progress": None}


def thinned(rows: Sequence[Row], most: int = MAX_ROWS) -> list[Row]:
    """At most about `most` rows: evenly many, the last one, and all that have a metric that most rows lack."""
    if len(rows) <= most:
        return list(rows)
    every = math.ceil(len(rows) / most)
    common = rows[len(rows) // 2][1].keys()
    rare = [i for i, row in enumerate(rows) if row[1].keys() - common]
    keep = {*range(0, len(rows), every), len(rows) - 1, *rare[:: math.ceil(len(rare) / most) or 1]}
    return [rows[i] for i in sorted(keep)]


def _chosen(after: int, chunks: int) -> list[int]:
    """The numbers of the chunks to read."""
    numbers = range(max(0, after) + 1, chunks + 1)
    if len(numbers) <= MAX_CHUNKS:
        return list(numbers)
    every = math.ceil(len(numbers) / (MAX_CHUNKS - LAST_CHUNKS))
    return sorted({*numbers[::every], *numbers[-LAST_CHUNKS:]})


def _known(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that have a chart, with six digits."""
    found = {name: value for name in _NAMES if drawn(metrics, name) and (value := _finite(metrics[name])) is not None}
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _said(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as the page shows it: how far, and its first metrics, which are the most important ones."""
    metrics = cast("Mapping[str, Any]", message["metrics"])
    named: Iterable[tuple[str, float | None]] = ((name, _finite(value)) for name, value in list(metrics.items())[:3])
    return {
        "done": message["done"],
        "total": message["total"],
        "unit": printable(str(message["unit"])),
        "metrics": {printable(name): value for name, value in named if value is not None},
        "eta": _finite(metrics.get("time/eta")),
    }


def _estimate(folder: Folder, progress: Mapping[str, Any]) -> float | None:
    """The remaining seconds at the speed so far."""
    done, total, began, now = progress["done"], progress["total"], folder.first_output, folder.last_output
    if not done or began is None or now is None or now <= began:
        return None
    return (now - began) / done * max(0, total - done)
