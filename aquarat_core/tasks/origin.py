"""What the questions are that something was made from or measured on: it must be said wherever a result is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from aquarat_core.tasks.registry import DATASETS, TASKS, load_task

if TYPE_CHECKING:
    from aquarat_core.artifacts import Artifact

UNKNOWN = "questions of unknown origin"
MAX_ANCESTORS = 200


def questions_of(artifact: Artifact) -> str | None:
    """The origin of the questions that an artifact holds, was trained on by RL or measured on; of the other artifacts
    that of the data set of a task among their ancestors. None without one.

    It is read from the artifacts' own configs, not from the name of a profile.
    """
    names = _named(artifact.manifest.config)
    held = _in_dataset(artifact)
    if not names or (held and all(name in DATASETS.values() for name in names)):
        return held
    return " and ".join(held or UNKNOWN if name in DATASETS.values() else _text(name) for name in names)


def asked(task: str, data: Iterable[Artifact]) -> str:
    """The origin of the questions of a task, out of the artifacts that hold data."""
    if task in TASKS.keys() - set(DATASETS.values()):
        return _text(task)
    return next((text for text in map(_in_dataset, data) if text), UNKNOWN if task in TASKS else _text(task))


def warning_about(questions: str | None) -> str | None:
    """What must be said beside every score on questions of this origin, if anything."""
    origins = (origin for name in DATASETS.values() for origin in load_task(name).origins.values())
    return next((o.warning for o in origins if o.warning and o.text in (questions or "")), None)


def _named(config: Mapping[str, Any]) -> list[str]:
    """The tasks that the config of RL or of a report names."""
    if isinstance(task := config.get("task"), str):
        return [task]
    tasks = config.get("tasks")
    if not isinstance(tasks, list) or "steps" not in config:
        return []
    return [str(task["name"]) for task in cast("list[Mapping[str, Any]]", tasks)]


def _text(name: str) -> str:
    """The origin of the questions of a task without an asset of its own."""
    return load_task(name).origins["hub"].text if name in TASKS else f"the task {name}"


def _in_dataset(artifact: Artifact) -> str | None:
    """The origin of the examples of a task's data set: of this artifact, or the nearest among its ancestors."""
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
