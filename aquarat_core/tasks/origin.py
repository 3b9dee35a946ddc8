"""What the questions are that something was made from or measured on: it must be said wherever a result is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aquarat_core.tasks.registry import DATASETS, load_task

if TYPE_CHECKING:
    from aquarat_core.artifacts import Artifact

UNKNOWN = "questions of unknown origin"
MAX_ANCESTORS = 200


def questions_of(artifact: Artifact) -> str | None:
    """The origin of the examples of a task's data set, or of the one among the artifact's ancestors; None without one.

    It is read from the data set's own config, not from the name of a profile.
    """
    seen: set[str] = set()
    waiting = [artifact]
    while waiting and len(seen) < MAX_ANCESTORS:
        one = waiting.pop()
        if one.asset in DATASETS:
            found = load_task(DATASETS[one.asset]).origins.get(str(one.manifest.config.get("source")))
            return found.text if found else UNKNOWN
        for parent in one.manifest.parents:
            if parent.manifest_sha256 not in seen and one.store.has(parent.manifest_sha256):
                seen.add(parent.manifest_sha256)
                waiting.append(one.store.get(parent.manifest_sha256))
    return None


def warning_about(questions: str | None) -> str | None:
    """What must be said beside every score on questions of this origin, if anything."""
    origins = (origin for name in DATASETS.values() for origin in load_task(name).origins.values())
    return next((origin.warning for origin in origins if origin.text == questions), None)
