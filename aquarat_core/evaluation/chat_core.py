"""ChatCORE: how far a checkpoint is from guessing (0) to perfect (1), averaged over seven tasks.

The rule is nanochat's: (accuracy - baseline) / (1 - baseline) of each task, and their plain mean, which has the name
ChatCORE only if every task ran. Multiple choice is answered by the likelihood of the
letters, the other tasks by greedy generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from aquarat_core.config.evaluation import BOTH_WAYS, CHAT_CORE, Asked
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.statistics import centered_mean_interval

NAME = "ChatCORE"


class ChatCoreTask(TypedDict):
    """One task of ChatCORE; rates are shares in [0, 1]."""

    task: str
    evaluation: str
    """The name of the evaluation with these figures."""
    n: int
    accuracy: float
    lo: float
    hi: float
    baseline: float
    centered: float
    counts: bool
    """False for an evaluation that is shown but not part of the mean."""


class ChatCore(TypedDict):
    """The mean and its parts."""

    name: str
    """`ChatCORE`, or `ChatCORE-5` if only five of the tasks ran: not comparable with others."""
    value: float
    lo: float
    hi: float
    """95 % interval, from the binomial errors of the tasks."""
    tasks: list[ChatCoreTask]
    absent: list[str]


def chat_core(asked: Sequence[Asked], evaluations: Sequence[Evaluation]) -> ChatCore | None:
    """The mean over the tasks of ChatCORE that were `asked`; None without any."""
    names = {a.name: a for a in asked}
    baselines = {task: baseline for task, _, baseline in CHAT_CORE}
    rows = [_row(names[e["name"]], e, baselines) for e in evaluations if e["name"] in names]
    if not (counted := [row for row in rows if row["counts"]]):
        return None
    absent = [task for task in baselines if task not in {row["task"] for row in counted}]
    value = sum(row["centered"] for row in counted) / len(counted)
    lo, hi = centered_mean_interval([(row["accuracy"], row["n"], row["baseline"]) for row in counted])
    return ChatCore(
        name=f"{NAME}-{len(counted)}" if absent else NAME,
        value=value,
        lo=lo,
        hi=hi,
        tasks=rows,
        absent=absent,
    )


def _row(asked: Asked, evaluation: Evaluation, baselines: dict[str, float]) -> ChatCoreTask:
    figures, baseline = evaluation["figures"], baselines[asked.task]
    accuracy = figures["accuracy"]
    return ChatCoreTask(
        task=asked.task,
        evaluation=asked.name,
        n=evaluation["n"],
        accuracy=accuracy,
        lo=figures["lo"],
        hi=figures["hi"],
        baseline=baseline,
        centered=(accuracy - baseline) / (1 - baseline),
        counts=asked.calculator or asked.task != BOTH_WAYS,
    )
