"""What CORE of a model is: its answers, the figures of each task, and the mean that has the name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from aquarat_core.evaluation.core.bundle import CoreTask
from aquarat_core.evaluation.core.tasks import BASELINES, centered
from aquarat_core.evaluation.statistics import wilson_interval

NEAR_TIE = 1e-4
"""Nats per token, or units of logits, below which rounding may decide an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question and how the model answered it."""

    task: str
    id: str
    """`arc_easy-000012`: the task and the line in its file."""
    prompt_sha256: str
    """Of the texts that were scored, each ended by a zero byte."""
    question: str
    """Without the examples before it: the query or context; of `schema` the continuation."""
    alternatives: tuple[str, ...]
    """The texts of the choices, or of the contexts of `schema`; of `language_modeling` the one continuation."""
    gold: int
    """The right alternative."""
    chosen: int | None
    """The alternative that the model prefers; of `language_modeling` 0 if every token of the continuation is the most
    likely one, else None."""
    choice_scores: tuple[float, ...]
    """Mean log-probability in nats per token of each alternative; empty if the question could not be scored."""
    correct: bool
    chance: float
    """How often a guess is right: 1 / alternatives, and 0 of `language_modeling`, where nothing is chosen from."""
    n_tokens: int
    """Tokens scored, over all alternatives."""
    margin: float | None
    """By how much the answer was decided: nats per token between the best alternative and the next that differs from
    it; of `language_modeling` the lead of a token's logit where it is smallest. None if nothing was compared."""
    extended: bool
    """Some prompt was longer than the model's context, and read in full."""
    cropped: bool
    """Some prompt was longer than the model's context, and lost its beginning."""
    unscorable: bool
    """No answer could be read, which counts as wrong: the prompt's ids do not begin with those of the prompt without
    continuation, or the continuation is longer than the model's context."""


class CoreTaskReport(TypedDict):
    """A task's row in `report.json`."""

    label: str
    type: str
    shots: int
    n: int
    accuracy: float
    lo: float
    hi: float
    baseline: float
    """The accuracy in [0, 1] that counts as zero, of DataComp-LM; not always that of guessing."""
    centered: float
    extended: int
    cropped: int
    unscorable: int
    unscorable_ids: list[str]
    near_ties: list[str]
    """Questions with a margin below `NEAR_TIE`."""


class CoreReport(TypedDict):
    """CORE in `report.json`."""

    name: str
    core: float
    lo: NotRequired[float]
    hi: NotRequired[float]
    """95 % interval, from the binomial errors of the tasks; older reports have none."""
    tasks: list[CoreTaskReport]
    absent: dict[str, str]
    """Tasks of CORE that were not there, each with the reason."""
    baselines: str
    bundle_sha256: str
    limit: int | None
    too_long: str


@dataclass(frozen=True, slots=True)
class CoreResult:
    """What was measured, and each answer."""

    report: CoreReport
    answers: list[Answer]
    """In the order of the tasks and of their questions."""


def name_of(n_tasks: int, limit: int | None) -> str:
    """The figure's name: `CORE`, or `CORE-18` of 18 tasks; `CORE@500` where up to 500 questions of each were asked."""
    name = "CORE" if n_tasks == len(BASELINES) else f"CORE-{n_tasks}"
    return name if limit is None else f"{name}@{limit}"


def task_report(task: CoreTask, answers: Sequence[Answer]) -> CoreTaskReport:
    right, n = sum(a.correct for a in answers), len(answers)
    lo, hi = wilson_interval(right, n)
    return CoreTaskReport(
        label=task.label,
        type=task.type,
        shots=task.shots,
        n=n,
        accuracy=right / n,
        lo=lo,
        hi=hi,
        baseline=task.baseline / 100,
        centered=centered(right / n, task.baseline),
        extended=sum(a.extended for a in answers),
        cropped=sum(a.cropped for a in answers),
        unscorable=sum(a.unscorable for a in answers),
        unscorable_ids=[a.id for a in answers if a.unscorable],
        near_ties=[a.id for a in answers if a.margin is not None and abs(a.margin) < NEAR_TIE],
    )
