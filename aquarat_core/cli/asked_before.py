"""What the reports in a store tell: how long a checkpoint's answers may be, and how often a split was looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.looks import looks_at, reports_about, uncounted_sentence

MAX_NEW_TOKENS = 256
"""Maximum number of tokens of an answer where nothing says another; at most half of the model's context."""


def new_tokens(checkpoint: Artifact, artifacts: Mapping[str, Artifact], task: str) -> int | None:
    """The limit of an answer's tokens in the newest report that asked the checkpoint this task, or in its own training
    on it; None if neither says one. With another limit, two evaluations do not compare."""
    for report in reports_about(checkpoint, artifacts.values()):
        if found := _of_report(report, task):
            return found
    config = checkpoint.manifest.config
    trained_on = [config.get("validation_task"), *(t.get("name") for t in _entries(config.get("tasks")))]
    return _count(config.get("max_new_tokens")) if task in trained_on else None


def default_new_tokens(checkpoint: Artifact) -> int:
    """The limit of an answer's tokens that fits the checkpoint's context."""
    from aquarat_core.model.checkpoint import CONFIG

    described = json.loads(checkpoint.path(CONFIG).read_text(encoding="utf-8"))
    return min(MAX_NEW_TOKENS, max(1, int(described["model"]["sequence_len"]) // 2))


def uncounted_looks(artifacts: Mapping[str, Artifact], evaluations: Sequence[Evaluation]) -> list[str]:
    """How often a store's reports have looked at the questions of evaluations that it does not keep, in sentences."""
    splits = dict.fromkeys((e["task"], e["split"], e["hashes"]["data_version"]) for e in evaluations)
    return [
        uncounted_sentence(looks_at(version, artifacts, task, split), task, split) for task, split, version in splits
    ]


def _of_report(report: Artifact, task: str) -> int | None:
    try:
        held = json.loads(report.path("report.json").read_text(encoding="utf-8"))
    except (ArtifactError, ValueError):
        return None  # damaged, or of a store that cannot be reached: another report may say it
    asked = _entries(held.get("evaluations"))
    limits = [e["settings"].get("max_new_tokens") for e in asked if e.get("task") == task]
    main = held.get("evaluation", {})
    if not asked and main.get("task") == task:
        limits = [main.get("max_new_tokens")]
    return next(filter(None, map(_count, limits)), None)


def _entries(found: object) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", found) if isinstance(found, list) else []


def _count(found: object) -> int | None:
    return found if isinstance(found, int) and found > 0 else None
