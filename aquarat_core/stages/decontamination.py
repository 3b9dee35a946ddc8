"""What training stages do so that no held-out question of the config's tasks (`decontaminate`) is trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from aquarat_core.config.tasks import CORE
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.stage import CORE_QUESTIONS, EVAL_BUNDLE, load
from aquarat_core.stages.task_inputs import task_input
from aquarat_core.tasks.decontamination import (
    DECONTAMINATION_FILE,
    Contaminated,
    counts,
    held_out_questions,
    held_out_texts,
)
from aquarat_core.tasks.duplicates import HeldOut
from aquarat_core.tasks.splits import HELD_OUT
from aquarat_core.tasks.task import Example


def protected_questions(ctx: StageContext) -> HeldOut | None:
    """The validation and test questions of the config's tasks, as far as they have them; None if it names no task."""
    return held_out_questions(_examples(ctx)) if ctx.config.decontaminate else None


def protected_texts(ctx: StageContext) -> dict[str, str]:
    """The texts of the same questions, by task/split/id, and of those of CORE, if the config names it."""
    texts = held_out_texts(_examples(ctx))
    if CORE in ctx.config.decontaminate:
        texts |= load(CORE_QUESTIONS)(ctx.inputs[EVAL_BUNDLE].directory())
    return texts


def _examples(ctx: StageContext) -> Mapping[str, Mapping[str, Sequence[Example[Any]]]]:
    found = {name: task_input(ctx, name) for name in ctx.config.decontaminate if name != CORE}
    return {
        name: {split: task.examples(split) for split in HELD_OUT if task.rows(split)} for name, task in found.items()
    }


def record_left_out(ctx: StageContext, rows: Sequence[Contaminated], sources: Iterable[str]) -> dict[str, Scalar]:
    """Lists the rows that were left out in a record, from rank 0; returns their counts as metrics.

    Does nothing where the config protects no task.
    """
    if not ctx.config.decontaminate:
        return {}
    if ctx.rank == 0:
        listed = json.dumps([asdict(row) for row in rows], indent=1)
        (ctx.extras_dir / DECONTAMINATION_FILE).write_text(listed + "\n", encoding="utf-8")
    tasks = " and ".join(ctx.config.decontaminate)
    ctx.log(f"training rows left out because they contain a held-out question of {tasks}: {len(rows):,}")
    return {**counts(rows, sources)}
