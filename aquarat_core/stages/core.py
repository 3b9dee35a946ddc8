"""The part of an evaluation that measures CORE."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from aquarat_core.config import EvalConfig
from aquarat_core.config.core import bundle_pin
from aquarat_core.errors import DataError
from aquarat_core.evaluation.core.archive import unpack
from aquarat_core.evaluation.core.evaluations import as_answered
from aquarat_core.evaluation.core.result import CoreReport
from aquarat_core.evaluation.core.scoring import evaluate_core
from aquarat_core.evaluation.protocols import Evaluator
from aquarat_core.evaluation.suite import Answered
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.stages.base import StageContext
from aquarat_core.stages.stage import EVAL_BUNDLE


def measure_core(ctx: StageContext, evaluator: Evaluator) -> tuple[CoreReport | None, list[Answered]]:
    """What `report.json` says of CORE, and an evaluation for each of its tasks, on rank 0; nothing on the others.

    Nothing where the profile does not ask for it, for this checkpoint. All ranks must call it.
    """
    config: EvalConfig = ctx.config
    if config.core is None or EVAL_BUNDLE not in ctx.inputs:
        return None, []
    bundle = ctx.inputs[EVAL_BUNDLE]
    result = evaluate_core(
        evaluator.model,
        evaluator.tokenizer,
        bundle.directory(),
        config.core,
        evaluator.world,
        lambda done, total: ctx.progress(done, total, "questions of CORE"),
    )
    if result is None:
        return None, []
    return result.report, as_answered(result, bundle.asset, bundle.data_version)


@contextmanager
def opened_bundle(path: Path) -> Generator[tuple[Path, str]]:
    """The folder with the files of a bundle, which may be a zip file, and the bundle's hash.

    Raises `DataError` for one that is damaged.
    """
    try:
        pin = bundle_pin(str(path))
    except ValueError as e:
        raise DataError(f"the bundle {e}") from None
    if path.is_dir():
        yield path, pin
        return
    with scratch_folder("bundle") as scratch:
        try:
            unpack(path, scratch)
        except DataError as e:
            raise DataError(f"{path}: {e}") from None
        yield scratch, pin
