"""How often a split was looked at: the eval reports that a store has on the same questions.

Whoever picks the best of many checkpoints by the accuracy on one split fits to that split a little with each look, and
the best accuracy is too high. The count is read from manifests alone, without opening a report: two reports look at the
same questions if both are on the same task and split and were made from the same version of its data. It is a lower
bound: reports that were removed or lie in other stores are unknown, and data that was made anew with other bytes may
hold the same questions.

Training looks at splits too: it measures losses and accuracies on them, and RL publishes the policy with the best one
(`looks_in_training`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from aquarat_core.artifacts import Artifact, Manifest
from aquarat_core.config.tasks import UNNAMED_TASK
from aquarat_core.tasks.registry import DATASETS, dataset_of

CONTENT = frozenset({"report.json", "questions.parquet"})
USUAL_SPLIT = "test"
"""The split that an evaluation's name does not mention (`Asked.name`)."""


class Looks(NamedTuple):
    """Earlier looks at a split: how many reports, and of how many different checkpoints."""

    reports: int
    checkpoints: int


class TrainingLook(NamedTuple):
    """How often the training of one checkpoint measured itself on a task's split."""

    checkpoint: str
    """The checkpoint's asset."""
    task: str
    split: str
    times: int
    chose: bool
    """Whether these measurements chose the policy that was published."""


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


def looks_in_training(checkpoint: Artifact, artifacts: Mapping[str, Artifact]) -> list[TrainingLook]:
    """What the training of a checkpoint, and before that of its ancestors, measured itself on; the first stage first.

    Read from the config of each, so of imported checkpoints nothing is known.
    """
    found: list[TrainingLook] = []
    one: Artifact | None = checkpoint
    seen: set[str] = set()
    while one is not None and one.sha256 not in seen:
        seen.add(one.sha256)
        found = [*_looks_of(one.asset, one.manifest.config), *found]
        parents = (artifacts.get(p.manifest_sha256) for p in one.manifest.parents)
        one = next((p for p in parents if p is not None and p.manifest.kind == "checkpoint"), None)
    return found


def _looks_of(asset: str, config: Mapping[str, Any]) -> list[TrainingLook]:
    """The looks that a training stage with this config takes: one at each evaluation, and RL one before the first
    step."""
    steps, every = config.get("steps"), config.get("eval_every")
    if not isinstance(steps, int) or not isinstance(every, int) or every < 1:
        return []
    split, measured = str(config.get("validation_split", "validation")), -(-steps // every)
    if task := config.get("validation_task"):
        return [TrainingLook(asset, str(task), _choice_split(str(task), split), measured, False)]
    if "publish" not in config:
        return []
    tasks = cast("list[dict[str, Any]]", config.get("tasks", []))
    names = [str(task["name"]) for task in tasks] or [UNNAMED_TASK]
    chose = config["publish"] == "best"
    return [TrainingLook(asset, name, _choice_split(name, split), measured + 1, chose) for name in names]


def _choice_split(task: str, split: str) -> str:
    """The split that is looked at where the config says `split`: data sets of many tasks have no hold-out."""
    return split if dataset_of(task) in DATASETS else "validation"


def training_sentences(found: Iterable[TrainingLook]) -> list[str]:
    """One sentence for each split that training looked at."""
    by_split: dict[tuple[str, str], list[TrainingLook]] = {}
    for look in found:
        by_split.setdefault((look.task, look.split), []).append(look)
    return [
        f"Training looked at {task} ({split}) {', '.join(map(_times, looks))}."
        for (task, split), looks in by_split.items()
    ]


def _times(look: TrainingLook) -> str:
    said = f"{look.times:,} time{'' if look.times == 1 else 's'} in {look.checkpoint}"
    return f"{said}, which published the policy that was best there" if look.chose else said


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
