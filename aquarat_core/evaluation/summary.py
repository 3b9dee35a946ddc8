"""From per-question records to the numbers of a report, and to one careful sentence about two of them.

The rules: no accuracy without its interval and its baselines; two checkpoints are compared only on the very same
questions; nothing "improved" unless both the exact test and the interval of the difference say so.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypedDict

from aquarat_core.errors import DataError
from aquarat_core.evaluation import statistics as st
from aquarat_core.evaluation.power import detectable_by_mcnemar
from aquarat_core.evaluation.records import Record

ALPHA = 0.05
BOOTSTRAP_SEED = 0


Verdict = Literal["above", "below", "no difference shown"]
"""What may be said of a paired difference."""


class Baseline(TypedDict):
    """One answer (a letter, where the answers are letters) given to everything, and how often it is right here."""

    letter: str
    accuracy: float


class LetterRow(TypedDict):
    """How often an answer is right, was given, and was given rightly."""

    gold: int
    answered: int
    correct: int


class Summary(TypedDict):
    """One checkpoint on one set of questions. Rates are shares in [0, 1]; intervals are 95 %."""

    n: int
    correct: int
    accuracy: float
    accuracy_lo: float
    accuracy_hi: float
    uniform: float
    constant_letter: Baseline
    majority: Baseline
    p_above_uniform: float | None
    """None where a guess is never right."""
    p_against_constant: float
    against_constant: Verdict
    letters: dict[str, LetterRow]
    """For each answer that the task counts by name; empty where answers are open."""
    letter_entropy_bits: float
    parse_rate: float
    truncation_rate: float
    too_long: int
    """Questions that did not fit the model's context; they count as wrong."""
    mean_tokens: float


class Comparison(TypedDict):
    """Two checkpoints on the same questions; differences are child minus parent, in shares."""

    n: int
    both_right: int
    only_parent: int
    only_child: int
    both_wrong: int
    difference: float
    difference_lo: float
    difference_hi: float
    mcnemar_p: float
    minimum_detectable: float | None
    """The smallest difference that is found in four of five cases at p < 0.05; None if there is none."""
    verdict: Verdict
    wording: str


def summarize(records: Sequence[Record], majority: str, chance: float, categories: Sequence[str]) -> Summary:
    """The numbers of one evaluation.

    `majority` is the commonest right answer of the training split: a baseline that has not seen these questions, where
    the best constant answer is chosen with them in hand. `chance` is the accuracy of guessing, and `categories` are the
    answers that the task counts by name. Raises `DataError` without records.
    """
    check_ids(records)
    n, correct = len(records), sum(r.correct for r in records)
    lo, hi = st.wilson_interval(correct, n)
    letter, constant = st.best_constant_answer((r.gold for r in records), categories)
    only_model = sum(r.correct and r.gold != letter for r in records)
    only_constant = sum(not r.correct and r.gold == letter for r in records)
    p_constant = st.mcnemar_exact(only_constant, only_model)
    answered = st.answer_counts((r.parsed for r in records), categories)
    return Summary(
        n=n,
        correct=correct,
        accuracy=correct / n,
        accuracy_lo=lo,
        accuracy_hi=hi,
        uniform=chance,
        constant_letter=Baseline(letter=letter, accuracy=constant),
        majority=Baseline(letter=majority, accuracy=sum(r.gold == majority for r in records) / n),
        p_above_uniform=st.binomial_test(correct, n, chance) if chance else None,
        p_against_constant=p_constant,
        against_constant=_verdict(only_model - only_constant, p_constant),
        letters=_letter_rows(records, categories),
        letter_entropy_bits=st.entropy_bits(answered),
        parse_rate=sum(r.parsed is not None for r in records) / n,
        truncation_rate=sum(r.truncated for r in records) / n,
        too_long=sum(r.stop_reason == "too_long" for r in records),
        mean_tokens=sum(r.n_tokens for r in records) / n,
    )


def compare(
    parent: Sequence[Record], child: Sequence[Record], names: tuple[str, str] = ("the parent", "this checkpoint")
) -> Comparison:
    """Paired comparison on the same questions. Raises `DataError` when the questions are not the same."""
    if reason := question_difference(parent, child):
        raise DataError(f"no paired comparison: {reason}")
    was_right = {r.id: r.correct for r in parent}
    pairs = [(was_right[r.id], r.correct) for r in child]
    n, only_parent, only_child = len(pairs), pairs.count((True, False)), pairs.count((False, True))
    difference = (only_child - only_parent) / n
    p = st.mcnemar_exact(only_parent, only_child)
    lo, hi = st.paired_bootstrap_interval(only_parent, only_child, n, seed=BOOTSTRAP_SEED)
    verdict = paired_verdict(difference, lo, hi, p)
    smallest = detectable_by_mcnemar(n, (only_parent + only_child) / n, alpha=ALPHA)
    return Comparison(
        n=n,
        both_right=pairs.count((True, True)),
        only_parent=only_parent,
        only_child=only_child,
        both_wrong=pairs.count((False, False)),
        difference=difference,
        difference_lo=lo,
        difference_hi=hi,
        mcnemar_p=p,
        minimum_detectable=smallest,
        verdict=verdict,
        wording=_wording(names, verdict, difference, lo, hi, p, smallest),
    )


def corrected(found: Comparison, names: tuple[str, str], p: float, tests: int) -> Comparison:
    """The comparison as one of several tests: verdict and wording by `p`, its p-value after the correction for them.

    `names` are those of parent and child.
    """
    difference, lo, hi = found["difference"], found["difference_lo"], found["difference_hi"]
    verdict = paired_verdict(difference, lo, hi, p)
    note = f", {st.p_text(p)} with Holm's correction for {tests} tests" if tests > 1 else ""
    wording = _wording(names, verdict, difference, lo, hi, found["mcnemar_p"], found["minimum_detectable"], note)
    return {**found, "verdict": verdict, "wording": wording}


def paired_verdict(difference: float, lo: float, hi: float, p: float) -> Verdict:
    """What may be said of a paired difference: the test and the interval of the difference must agree."""
    return "no difference shown" if lo <= 0 <= hi else _verdict(difference, p)


def none_parsed(summary: Summary) -> str | None:
    """The warning for the top of a page if no answer could be read; None if at least one could."""
    if summary["parse_rate"] > 0:
        return None
    return none_read(summary["n"])


def none_read(answers: int) -> str:
    """The sentence about an evaluation of which no answer could be read."""
    return (
        f"None of the {answers:,} answers could be read in the form that was asked for, so all count as wrong. The "
        "accuracy says nothing about what the model knows."
    )


def question_difference(first: Sequence[Record], second: Sequence[Record]) -> str | None:
    """Why two evaluations did not ask the same questions with the options in the same order, or None if they did."""
    check_ids(first)
    check_ids(second)
    asked, asked_too = ({r.id: (r.question, r.gold) for r in records} for records in (first, second))
    if missing := asked.keys() ^ asked_too.keys():
        return f"{len(missing)} question ids are in one evaluation only ({len(asked)} and {len(asked_too)} questions)"
    if changed := sum(asked[key] != asked_too[key] for key in asked):
        return f"{changed} of {len(asked)} questions differ in their text or in the order of their options"
    return None


def questions_sha256(records: Sequence[Record]) -> str:
    """Hash of what was asked: ids, prompts with their option order, right letters; independent of row order."""
    rows = sorted((r.id, r.question, r.gold) for r in records)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def check_ids(records: Sequence[Record]) -> None:
    """Raises `DataError` unless there are records and every question id occurs once."""
    if not records:
        raise DataError("no evaluation records: evaluate at least one question (eval_report.limit)")
    if repeated := len(records) - len({r.id for r in records}):
        raise DataError(f"{repeated} question ids occur more than once: ids of a split must be unique")


def _letter_rows(records: Sequence[Record], categories: Sequence[str]) -> dict[str, LetterRow]:
    gold = Counter(r.gold for r in records)
    answered = Counter(r.parsed for r in records)
    right = Counter(r.parsed for r in records if r.correct)
    return {x: LetterRow(gold=gold[x], answered=answered[x], correct=right[x]) for x in categories}


def _verdict(difference: float, p: float) -> Verdict:
    if p >= ALPHA:
        return "no difference shown"
    return "above" if difference > 0 else "below"


def _wording(
    names: tuple[str, str],
    verdict: Verdict,
    difference: float,
    lo: float,
    hi: float,
    p: float,
    smallest: float | None,
    note: str = "",
) -> str:
    parent, child = names
    evidence = (
        f"{100 * difference:+.1f} points, 95% CI [{100 * lo:+.1f}, {100 * hi:+.1f}], {st.p_text(p, 'exact McNemar p')}"
        f"{note}"
    )
    if verdict == "above":
        return f"{child} improved on {parent}: {evidence}."
    if verdict == "below":
        return f"{child} is worse than {parent}: {evidence}."
    power = " So few questions cannot show any difference."
    if smallest is not None:
        power = f" Differences under about {100 * smallest:.1f} points would mostly go unseen here."
    return f"No difference between {child} and {parent} is shown: {evidence}.{power}"
