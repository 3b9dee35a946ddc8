"""Where the questions behind an artifact come from, which must be stated wherever a result is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from aquarat_core.tasks.registry import DATASETS, TASKS, load_task

if TYPE_CHECKING:
    from aquarat_core.artifacts import Artifact

UNKNOWN = "questions of unknown origin"
MAX_ANCESTORS = 200


def questions_of(artifact: Artifact) -> str | None:
    """The origin of the questions that an artifact holds, or that it was trained (by RL) or measured on. For other
    artifacts, that of a task's data set among their ancestors. None if there is none.

    It is read from the artifacts' configs and does not depend on the name of a profile.
    """
    names = _named(artifact.manifest.config)
    held = _in_dataset(artifact)
    if not names or (held and all(name in DATASETS.values() for name in names)):
        return held
    return " and ".join(held or UNKNOWN if name in DATASETS.values() else _text(name) for name in names)


def asked(task: str, data: Iterable[Artifact]) -> str:
    """The origin of a task's questions, found among the artifacts that hold data."""
    if task in TASKS.keys() - set(DATASETS.values()):
        return _text(task)
    return next((text for text in map(_in_dataset, data) if text), UNKNOWN if task in TASKS else _text(task))


def warning_about(questions: str | None) -> str | None:
    """The warning for every score on questions of this origin, or None."""
    origins = (origin for name in DATASETS.values() for origin in load_task(name).origins.values())
    return next((o.warning for o in origins if o.warning and o.text in (questions or "")), None)


def _named(config: Mapping[str, Any]) -> list[str]:
    """The tasks named in the config of RL or of a report."""
    if isinstance(task := config.get("task"), str):
        return [task]
    tasks = config.get("tasks")
    if not isinstance(tasks, list) or "steps" not in config:
        return []
    return [str(task["name"]) for task in cast("list[Mapping[str, Any]]", tasks)]


def _text(name: str) -> str:
    """The origin of a task's questions if it has no asset of its own."""
    return load_task(name).origins["hub"].text if name in TASKS else f"the task {name}"


def _in_dataset(artifact: Artifact) -> str | None:
    """The origin of the examples in a task's data set: this artifact, or the nearest among its ancestors."""
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
