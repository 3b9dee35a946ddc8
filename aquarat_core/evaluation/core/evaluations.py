"""CORE's answers as records and evaluations like all others, so that they are stored, rebuilt and compared alike."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Sequence
from statistics import mean
from string import ascii_uppercase

from aquarat_core.config.protocols import CORE
from aquarat_core.evaluation.core import rendering, scoring
from aquarat_core.evaluation.core.result import Answer, CoreResult, CoreTaskReport
from aquarat_core.evaluation.records import Facts, Record, as_scores
from aquarat_core.evaluation.suite import Answered

QUESTIONS = "tasks of CORE"


def as_answered(result: CoreResult, data_asset: str, data_version: str) -> list[Answered]:
    """An evaluation for each task, `core/arc_easy` or, with a limit, `core/arc_easy@500`.

    Alternatives have letters. The continuation of a language-modeling task is not one of several: its row has no
    scores, and an answer that is wrong is an empty text, since nothing was generated.
    """
    report = result.report
    found: list[Answered] = []
    for task in report["tasks"]:
        name = f"core/{task['label']}" + ("" if report["limit"] is None else f"@{report['limit']}")
        answers = [a for a in result.answers if a.task == task["label"]]
        facts = Facts(
            name=name,
            task=task["label"],
            protocol=CORE,
            split="test",
            questions=QUESTIONS,
            settings={
                "limit": report["limit"],
                "shots": task["shots"],
                "type": task["type"],
                "too_long": report["too_long"],
                "baselines": report["baselines"],
                "baseline": task["baseline"],
            },
            categories=[],
            majority=None,
            longest=longest(answers) if task["type"] == "multiple_choice" else None,
            grader=_version(),
            data_asset=data_asset,
            data_version=data_version,
        )
        found.append(Answered(facts, [_record(name, task, a) for a in answers]))
    return found


def longest(answers: Sequence[Answer]) -> float:
    """Accuracy of always choosing the longest alternative; several of that length share the question."""
    shares: list[float] = []
    for answer in answers:
        lengths = list(map(len, answer.alternatives))
        at_most = max(lengths)
        shares.append((lengths[answer.gold] == at_most) / lengths.count(at_most))
    return mean(shares)


def _record(name: str, task: CoreTaskReport, answer: Answer) -> Record:
    lettered = task["type"] != "language_modeling"
    # The mean of a choice without tokens of its own is no number, and no float that others could be compared with.
    scored = lettered and not answer.unscorable and not any(map(math.isnan, answer.choice_scores))
    chosen, parsed = answer.chosen, None if answer.unscorable else ""
    if chosen is not None:
        parsed = ascii_uppercase[chosen] if lettered else answer.alternatives[chosen]
    return Record(
        id=answer.id,
        question=_shown(answer) if lettered else answer.question,
        gold=ascii_uppercase[answer.gold] if lettered else answer.alternatives[0],
        completion="",
        parsed=parsed,
        correct=answer.correct,
        n_tokens=0,
        truncated=False,
        stop_reason="scored",
        evaluation=name,
        task=answer.task,
        protocol=CORE,
        prompt_sha256=answer.prompt_sha256,
        choice_scores=as_scores(answer.choice_scores) if scored else None,
        chance=answer.chance,
    )


def _shown(answer: Answer) -> str:
    """The question with its alternatives, each behind its letter."""
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, answer.alternatives, strict=False))
    return f"{answer.question}\n{listed}"


def _version() -> str:
    """What renders and scores, and a hash of its source: prompts of other code are other prompts."""
    source = inspect.getsource(rendering) + inspect.getsource(scoring)
    return f"{rendering.__name__}@{hashlib.sha256(source.encode()).hexdigest()[:12]}"
