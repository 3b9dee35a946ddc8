"""CORE of a model: every question of a bundle's tasks scored, on all ranks, and the mean that has the name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aquarat_core.config import CoreConfig
from aquarat_core.errors import UserError
from aquarat_core.evaluation.core.bundle import Bundle, CoreTask, Row
from aquarat_core.evaluation.core.rendering import Scored, in_order, prompts, scored
from aquarat_core.evaluation.core.result import Answer, CoreReport, CoreResult, name_of, task_report
from aquarat_core.evaluation.core.tasks import BASELINES_VERSION
from aquarat_core.evaluation.likelihood import Choices, Likelihood, Scorer
from aquarat_core.evaluation.statistics import centered_mean_interval
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.text.tokenizer import Tokenizer

QUESTIONS_AT_ONCE = 512
"""Questions whose token ids are in memory at once."""
Tell = Callable[[int, int], None]
"""Called with the questions done so far, as far as this rank knows, and with all."""


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
    tasks = [task_report(task, [a for a in answers if a.task == task.label]) for task in opened.tasks]
    lo, hi = centered_mean_interval([(task["accuracy"], task["n"], task["baseline"]) for task in tasks])
    report = CoreReport(
        name=name_of(len(tasks), config.limit),
        core=sum(task["centered"] for task in tasks) / len(tasks),
        lo=lo,
        hi=hi,
        tasks=tasks,
        absent=opened.absent,
        baselines=BASELINES_VERSION,
        bundle_sha256=opened.sha256,
        limit=config.limit,
        too_long=scorer.too_long,
    )
    return CoreResult(report, answers)


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
    of_contexts = task.type == "schema"
    return Answer(
        task=task.label,
        id=f"{task.label}-{row.line:06d}",
        prompt_sha256=hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).hexdigest(),
        question=row.endings[0] if of_contexts else row.contexts[0],
        alternatives=row.contexts if of_contexts else row.endings,
        gold=row.gold,
        chosen=chosen,
        choice_scores=() if unscorable else tuple(math.nan if x is None else x.mean for x in likelihoods),
        correct=chosen == row.gold,
        chance=0.0 if task.type == "language_modeling" else 1 / len(texts),
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
    as_tuples = ("alternatives", "choice_scores")  # JSON has lists only
    return [Answer(**fields | {name: tuple(fields[name]) for name in as_tuples}) for fields in in_turn]


def _check_limit(bundle: Bundle, limit: int | None) -> None:
    """The examples are drawn from the questions that are asked."""
    shots = max(task.shots for task in bundle.tasks)
    if limit is not None and limit <= shots:
        raise UserError(
            f"core.limit {limit} leaves too few questions to draw {shots} examples from before each: raise it to "
            f"{shots + 1} at least, or ask all questions with null"
        )
