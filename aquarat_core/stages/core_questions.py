"""CORE as a part of an eval report: the bundle that it is measured with, and its answers among the records."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aquarat_core.artifacts import Artifact
from aquarat_core.config import CoreConfig
from aquarat_core.config.core import bundle_pin
from aquarat_core.errors import DataError
from aquarat_core.evaluation.core.archive import unpack
from aquarat_core.evaluation.core.scoring import Answer, CoreResult, Tell, evaluate_core
from aquarat_core.evaluation.protocols import Evaluator
from aquarat_core.evaluation.records import Record, as_scores
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.stages.base import Scalar
from aquarat_core.stages.stage import EVAL_BUNDLE

PREFIX = "core/"
"""Before the names of its tasks, where records and metrics of other evaluations are too."""


def is_for(config: CoreConfig | None, phase: str) -> bool:
    """Whether CORE is measured of a phase's checkpoint."""
    return config is not None and (not config.of or phase in config.of)


def measure(
    model: Evaluator, inputs: Mapping[str, Artifact], config: CoreConfig | None, phase: str, tell: Tell
) -> CoreResult | None:
    """CORE of a phase's checkpoint on rank 0; None on other ranks and where it is not asked for."""
    if config is None or not is_for(config, phase):
        return None
    return evaluate_core(model.model, model.tokenizer, inputs[EVAL_BUNDLE].directory(), config, model.world, tell)


def records_of(result: CoreResult | None) -> list[Record]:
    """The answers as records, of an evaluation for each task."""
    return [_record(answer) for answer in result.answers] if result else []


def _record(answer: Answer) -> Record:
    return Record(
        id=answer.id,
        question=answer.question,
        gold=answer.gold,
        completion=answer.completion,
        parsed=answer.completion or None,
        correct=answer.correct,
        n_tokens=answer.n_tokens,
        truncated=answer.cropped,
        stop_reason="too_long" if answer.unscorable else "scored",
        evaluation=f"{PREFIX}{answer.task}",
        task=f"{PREFIX}{answer.task}",
        protocol="continuations",
        prompt_sha256=answer.prompt_sha256,
        choice_scores=as_scores(answer.choice_scores) if answer.choice_scores else None,
        chance=answer.chance,
    )


def metrics(result: CoreResult | None) -> dict[str, Scalar]:
    """For the manifest: the mean by its name, such as `core-18@500`, and the accuracy of each task."""
    if result is None:
        return {}
    report = result.report
    found: dict[str, Scalar] = {report["name"].lower(): report["core"]}
    for task in report["tasks"]:
        found[f"{PREFIX}{task['label']}/accuracy"] = task["accuracy"]
    return found


@contextmanager
def opened_bundle(path: Path) -> Generator[Path]:
    """The folder with the files of a bundle, which may be a zip file. Raises `DataError` for one that is damaged."""
    if path.is_dir():
        yield path
        return
    try:
        bundle_pin(str(path))
    except ValueError as e:
        raise DataError(f"the bundle {e}") from None
    with scratch_folder("bundle") as scratch:
        try:
            unpack(path, scratch)
        except DataError as e:
            raise DataError(f"{path}: {e}") from None
        yield scratch
