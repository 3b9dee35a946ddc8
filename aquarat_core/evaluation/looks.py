"""How often a split was looked at: the eval reports that a store has on the same questions.

Whoever picks the best of many checkpoints by the accuracy on one split fits to that split a little with each look, and
the best accuracy is too high. The count is read from manifests alone, without opening a report: two reports look at the
same questions if both are on the same task and split and were made from the same version of its data. It is a lower
bound: reports that were removed or lie in other stores are unknown, training may have watched the split
itself, and data that was made anew with other bytes may hold the same questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aquarat_core.artifacts import Artifact, Manifest
from aquarat_core.config.tasks import UNNAMED_TASK
from aquarat_core.tasks.registry import dataset_of

CONTENT = frozenset({"report.json", "questions.parquet"})
USUAL_SPLIT = "test"
"""The split that an evaluation's name does not mention (`Asked.name`)."""


class Looks(NamedTuple):
    """Earlier looks at a split: how many reports, and of how many different checkpoints."""

    reports: int
    checkpoints: int


def is_eval_report(artifact: Artifact) -> bool:
    """Whether an artifact is the eval report of one checkpoint."""
    return artifact.manifest.kind == "report" and {entry.path for entry in artifact.manifest.files} >= CONTENT


def reports_about(checkpoint: Artifact, artifacts: Iterable[Artifact]) -> list[Artifact]:
    """The eval reports about this checkpoint, or about one with the same bytes; the newest first."""
    version = checkpoint.data_version
    found = [a for a in artifacts if is_eval_report(a) and version in (p.data_version for p in a.manifest.parents)]
    return sorted(found, key=lambda a: a.manifest.created, reverse=True)


def looks_before(report: Artifact, artifacts: Mapping[str, Artifact], task: str, split: str) -> Looks:
    """How often a store's reports had looked at the task's split when `report` was made.

    `artifacts` are those of the store by the hash of their manifest.
    """
    created = report.manifest.created
    before = {sha256: a for sha256, a in artifacts.items() if not is_eval_report(a) or a.manifest.created < created}
    return looks_at(_data_version(report, task), before, task, split)


def looks_at(data_version: str | None, artifacts: Mapping[str, Artifact], task: str, split: str) -> Looks:
    """How often the reports among `artifacts` looked at a task's split of that version of its data."""
    found = [
        a
        for a in artifacts.values()
        if is_eval_report(a) and (task, split) in _splits(a.manifest) and _data_version(a, task) == data_version
    ]
    return Looks(len(found), len({_checkpoint_version(a, artifacts) for a in found}))


def looks_sentence(found: Looks, task: str, split: str, before: str = "this report") -> str:
    """The count as a sentence."""
    return f"Before {before} the store had {_counts(found, task, split)}."


def uncounted_sentence(found: Looks, task: str, split: str, which: str = "This evaluation") -> str:
    """The same of an evaluation that is not in the store."""
    return f"{which} is not counted in the store, which has {_counts(found, task, split)}."


def _counts(found: Looks, task: str, split: str) -> str:
    reports = f"{found.reports:,} report{'' if found.reports == 1 else 's'}"
    checkpoints = f"{found.checkpoints:,} checkpoint{'' if found.checkpoints == 1 else 's'}"
    return f"{reports} on {task} ({split}), of {checkpoints}"


def _splits(manifest: Manifest) -> set[tuple[str, str]]:
    """The tasks and splits that a report is on: the main one of its config, and those whose accuracies it has.

    A report from before there were other tasks does not name its own.
    """
    main = str(manifest.config.get("task", UNNAMED_TASK)), str(manifest.config.get("split"))
    names = (name.partition("/")[0].partition("@") for name in manifest.metrics if name.endswith("/accuracy"))
    return {main, *((task, split or USUAL_SPLIT) for task, _, split in names)}


def _data_version(report: Artifact, task: str) -> str | None:
    asset = dataset_of(task)
    return next((p.data_version for p in report.manifest.parents if p.asset == asset), None)


def _checkpoint_version(report: Artifact, artifacts: Mapping[str, Artifact]) -> str:
    """Data version of the checkpoint that a report is about; without its manifest it counts as one of its own."""
    for parent in report.manifest.parents:
        found = artifacts.get(parent.manifest_sha256)
        if found is not None and found.manifest.kind == "checkpoint":
            return parent.data_version
    return report.sha256
