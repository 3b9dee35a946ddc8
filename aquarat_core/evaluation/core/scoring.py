"""CORE of a model: every question of a bundle's tasks scored, on all ranks, and the mean that has the name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from aquarat_core.config import CoreConfig
from aquarat_core.errors import UserError
from aquarat_core.evaluation.core.bundle import Bundle, CoreTask, Row
from aquarat_core.evaluation.core.rendering import Scored, in_order, prompts, right_pair, scored
from aquarat_core.evaluation.core.tasks import BASELINES, BASELINES_VERSION, centered
from aquarat_core.evaluation.likelihood import Choices, Likelihood, Scorer
from aquarat_core.evaluation.statistics import wilson_interval
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.text.tokenizer import Tokenizer

NEAR_TIE = 1e-4
"""Nats per token, or units of logits, below which rounding may decide an answer."""
QUESTIONS_AT_ONCE = 512
"""Questions whose token ids are in memory at once."""
Tell = Callable[[int, int], None]
"""Called with the questions done so far, as far as this rank knows, and with all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question and how the model answered it."""

    task: str
    id: str
    """`arc_easy-000012`: the task and the line in its file."""
    prompt_sha256: str
    """Of the texts that were scored, each ended by a zero byte."""
    question: str
    """Without the examples before it: the query or context; of `schema` each context, one a line."""
    gold: str
    """The text of the right alternative."""
    completion: str
    """The text of the alternative that the model prefers; of `language_modeling` the continuation if every token of it
    is the most likely one, else nothing."""
    choice_scores: tuple[float, ...]
    """Mean log-probability in nats per token of each alternative; empty if the question could not be scored."""
    correct: bool
    chance: float
    """Accuracy of guessing in this task."""
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
    """Accuracy of guessing in [0, 1]."""
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


def evaluate_core(
    model: Transformer, tokenizer: Tokenizer, bundle: Path, config: CoreConfig, world: World, tell: Tell | None = None
) -> CoreResult | None:
    """CORE of `model` from the bundle in a folder, on rank 0; None on the others. All ranks must call it.

    Question i is scored by rank i modulo their number. Raises `DataError` for a bundle that cannot be used and
    `UserError` for a limit that leaves no question its examples.
    """
    opened = Bundle(bundle)
    _check_limit(opened, config.limit)
    questions = {task.label: in_order(opened.rows(task), config.limit) for task in opened.tasks}
    total, done = sum(map(len, questions.values())), 0
    scorer = Scorer(model, config.too_long)
    answers: list[Answer] = []
    for task in opened.tasks:
        rows = questions[task.label]

        def told(mine: int, before: int = done, n: int = len(rows)) -> None:
            if tell is not None:
                tell(before + min(n, mine * world.size), total)

        found = answer(scorer, tokenizer, task, rows, world.shard(list(range(len(rows)))), told)
        answers += _gathered(found, world)
        done += len(rows)
    if world.rank:
        return None
    tasks = [_task_report(task, [a for a in answers if a.task == task.label]) for task in opened.tasks]
    report = CoreReport(
        name=name_of(len(tasks), config.limit),
        core=sum(task["centered"] for task in tasks) / len(tasks),
        tasks=tasks,
        absent=opened.absent,
        baselines=BASELINES_VERSION,
        bundle_sha256=opened.sha256,
        limit=config.limit,
        too_long=scorer.too_long,
    )
    return CoreResult(report, answers)


def name_of(n_tasks: int, limit: int | None) -> str:
    """The figure's name: `CORE`, or `CORE-18` of 18 tasks; `CORE@500` where up to 500 questions of each were asked."""
    name = "CORE" if n_tasks == len(BASELINES) else f"CORE-{n_tasks}"
    return name if limit is None else f"{name}@{limit}"


def answer(
    scorer: Scorer,
    tokenizer: Tokenizer,
    task: CoreTask,
    rows: Sequence[Row],
    places: Sequence[int],
    tell: Callable[[int], None] | None = None,
) -> list[Answer]:
    """The answers to the questions at `places` of `rows`, all rows that are asked, in their order."""
    bos = tokenizer.special("<|bos|>")
    answers: list[Answer] = []
    for start in range(0, len(places), QUESTIONS_AT_ONCE):
        part = places[start : start + QUESTIONS_AT_ONCE]
        texts = [prompts(task, rows, i) for i in part]
        ids = iter(tokenizer.encode_batch([text for one in texts for text in one]))
        alternatives = [scored(task, [next(ids) for _ in one], bos) for one in texts]
        likelihoods = _likelihoods(scorer, alternatives)
        for i, text, found, likely in zip(part, texts, alternatives, likelihoods, strict=True):
            answers.append(_answer(scorer, task, rows[i], text, found, likely))
        if tell is not None:
            tell(len(answers))
    return answers


def _likelihoods(scorer: Scorer, questions: Sequence[Sequence[Scored] | None]) -> list[list[Likelihood | None]]:
    """Of each alternative; None for one without tokens of its own. Alternatives with one context share it."""
    requests: dict[tuple[int, tuple[int, ...]], list[tuple[int, Sequence[int]]]] = {}
    found: list[list[Likelihood | None]] = [[None] * len(question or ()) for question in questions]
    for q, question in enumerate(questions):
        for place, one in enumerate(question or ()):
            if one.continuation:
                requests.setdefault((q, tuple(one.context)), []).append((place, one.continuation))
    asked = [Choices(context, [c for _, c in choices]) for (_, context), choices in requests.items()]
    for ((q, _), choices), likelihoods in zip(requests.items(), scorer.score(asked), strict=True):
        for (place, _), likelihood in zip(choices, likelihoods, strict=True):
            found[q][place] = likelihood
    return found


def _answer(
    scorer: Scorer,
    task: CoreTask,
    row: Row,
    texts: Sequence[str],
    alternatives: Sequence[Scored] | None,
    likelihoods: Sequence[Likelihood | None],
) -> Answer:
    known = [x for x in likelihoods if x is not None and x.is_scored]
    too_long = any(len(a.context) + len(a.continuation) > scorer.sequence_len for a in alternatives or ())
    chosen: int | None = None
    margin: float | None = None
    unscorable = not known
    if task.type == "language_modeling":
        if known:
            chosen, margin = (0 if known[0].is_greedy else None), known[0].margin
    elif known:
        # An alternative without tokens of its own has no mean: compared with a number it never wins, and it is only
        # chosen where it comes first. So does the practice that scores are compared with.
        losses = [math.nan if x is None else -x.mean for x in likelihoods]
        chosen, margin = min(range(len(losses)), key=losses.__getitem__), _margin(losses)
    context, ending = right_pair(row)
    several = row.contexts if len(row.contexts) > 1 else row.endings
    return Answer(
        task=task.label,
        id=f"{task.label}-{row.line:06d}",
        prompt_sha256=hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).hexdigest(),
        question="\n".join(row.contexts),
        gold=context if len(row.contexts) > 1 else ending,
        completion="" if chosen is None else several[chosen],
        choice_scores=() if unscorable else tuple(math.nan if x is None else x.mean for x in likelihoods),
        correct=chosen == row.gold,
        chance=task.baseline / 100,
        n_tokens=sum(x.n_tokens for x in known),
        margin=margin,
        extended=too_long and scorer.too_long == "extend",
        cropped=too_long and scorer.too_long == "crop",
        unscorable=unscorable,
    )


def _margin(losses: Sequence[float]) -> float | None:
    """Between the smallest and the next larger loss: equal choices have equal losses to the last bit."""
    different = sorted({x for x in losses if math.isfinite(x)})
    return different[1] - different[0] if len(different) > 1 else None


def _gathered(answers: Sequence[Answer], world: World) -> list[Answer]:
    """All ranks' answers on rank 0, in the order of the questions: rank r has questions r, r + size, ..."""
    if world.size == 1:
        return list(answers)
    everywhere: list[Any] = world.gather_to_rank0([[asdict(a) for a in answers]])
    longest = max(map(len, everywhere), default=0)
    in_turn = [part[i] for i in range(longest) for part in everywhere if i < len(part)]
    return [Answer(**fields | {"choice_scores": tuple(fields["choice_scores"])}) for fields in in_turn]


def _task_report(task: CoreTask, answers: Sequence[Answer]) -> CoreTaskReport:
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


def _check_limit(bundle: Bundle, limit: int | None) -> None:
    """The examples are drawn from the questions that are asked."""
    shots = max(task.shots for task in bundle.tasks)
    if limit is not None and limit <= shots:
        raise UserError(
            f"core.limit {limit} leaves too few questions to draw {shots} examples from before each: raise it to "
            f"{shots + 1} at least, or ask all questions with null"
        )
