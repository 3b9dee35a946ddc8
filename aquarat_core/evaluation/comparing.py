"""Two evaluations side by side: every task and protocol that both have, compared question by question.

Only the same questions are compared, with the same prompts, grader and way of answering; what is not the same is listed
with the reason. A difference counts only if the test, corrected for the number of lines, and the interval of the
difference both say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, TypedDict

from aquarat_core.evaluation import statistics as st
from aquarat_core.evaluation.records import Record
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.evaluation.sampling import mean_over_questions
from aquarat_core.evaluation.summary import ALPHA, BOOTSTRAP_SEED, Verdict

SEEN_IN_QUESTIONS = frozenset({"task", "split", "limit", "permute_options", "seed", "samples"})
"""Settings that need not be equal: what they change shows in the questions, or makes means only more precise."""

Key = tuple[str, str, str]
"""Task, protocol, split."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one checkpoint answered to the questions of one task, by one protocol."""

    task: str
    protocol: str
    split: str
    grader: str
    settings: Mapping[str, Any]
    """How the questions were asked, such as the temperature and the limit of new tokens."""
    records: Sequence[Record]
    """One or several for each question, which its id tells apart."""

    @property
    def key(self) -> Key:
        return self.task, self.protocol, self.split


class Rate(TypedDict):
    """An accuracy with its 95 % interval, as shares; of repeated answers the mean over questions, clustered by them."""

    accuracy: float
    lo: float
    hi: float
    answers: int
    """Answers to each question; the fewest where they are not as many for all."""


class Line(TypedDict):
    """One task by one protocol; differences are second minus first, in shares."""

    task: str
    protocol: str
    split: str
    n: int
    first: Rate
    second: Rate
    difference: float
    difference_lo: float
    difference_hi: float
    fell: int
    """Questions that the first answered rightly more often."""
    rose: int
    """Questions that the second did."""
    test: str
    p: float
    p_corrected: float
    """Holm's, over all lines."""
    minimum_detectable: float
    verdict: Verdict


class Unpaired(TypedDict):
    """A task and protocol that are not compared, and why."""

    task: str
    protocol: str
    split: str
    reason: str


class Said(TypedDict):
    """One answer."""

    completion: str
    parsed: str | None
    correct: bool


class Flip(TypedDict):
    """A question that one of the two answered rightly more often."""

    task: str
    protocol: str
    split: str
    id: str
    question: str
    gold: str
    first: list[Said]
    second: list[Said]


class SideBySide(TypedDict):
    """The comparison of two evaluations."""

    lines: list[Line]
    not_compared: list[Unpaired]


def answers_of(evaluated: Evaluated) -> list[Answers]:
    """What a report's checkpoint was asked, by task and protocol."""
    how = evaluated.report["evaluation"]
    settings = {name: how[name] for name in ("decoding", "max_new_tokens")}
    # Reports of before there were other tasks do not name theirs.
    return [Answers(how.get("task", "aqua"), "greedy", how["split"], how["parser"], settings, evaluated.records)]


def side_by_side(first: Sequence[Answers], second: Sequence[Answers]) -> SideBySide:
    """Compares what both have, in the order of the first, and says of the rest why it is not compared."""
    ours, theirs = ({answers.key: answers for answers in side} for side in (first, second))
    lines: list[Line] = []
    unpaired: list[Unpaired] = []
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        if reason := _unpaired(ours.get(key), theirs.get(key)):
            unpaired.append(Unpaired(task=key[0], protocol=key[1], split=key[2], reason=reason))
        else:
            lines.append(_line(ours[key], theirs[key]))
    for line, p in zip(lines, st.holm([line["p"] for line in lines]), strict=True):
        line["p_corrected"] = p
        line["verdict"] = _verdict(line)
    return SideBySide(lines=lines, not_compared=unpaired)


def flips(first: Answers, second: Answers, at_most: int) -> tuple[list[Flip], list[Flip]]:
    """Up to `at_most` questions that the first answered rightly more often, and as many that the second did.

    Those whose means differ most come first, and of these the smallest ids.
    """
    ours, theirs = _by_question(first.records), _by_question(second.records)
    moved = {key: _mean(theirs[key]) - _mean(ours[key]) for key in ours}
    order = sorted(moved, key=lambda key: (-abs(moved[key]), key))
    found: tuple[list[Flip], list[Flip]] = [], []
    for key in order:
        chosen = found[moved[key] > 0]
        if moved[key] and len(chosen) < at_most:
            asked = ours[key][0]
            chosen.append(
                Flip(
                    task=first.task, protocol=first.protocol, split=first.split, id=key, question=asked.question,
                    gold=asked.gold, first=list(map(_said, ours[key])), second=list(map(_said, theirs[key])),
                )
            )  # fmt: skip
    return found


def _unpaired(first: Answers | None, second: Answers | None) -> str | None:
    if first is None or second is None:
        return f"only {'B' if first is None else 'A'} has it"
    if first.grader != second.grader:
        return f"the graders differ: {first.grader} and {second.grader}"
    names = sorted((first.settings.keys() | second.settings.keys()) - SEEN_IN_QUESTIONS)
    pairs = [(name, first.settings.get(name), second.settings.get(name)) for name in names]
    if different := [f"{name} is {a} in A and {b} in B" for name, a, b in pairs if a != b]:
        return f"the questions were not asked alike: {'; '.join(different)}"
    return _question_difference(_by_question(first.records), _by_question(second.records))


def _question_difference(first: Mapping[str, Sequence[Record]], second: Mapping[str, Sequence[Record]]) -> str | None:
    if missing := first.keys() ^ second.keys():
        return f"{len(missing)} question ids are in one of the two only ({len(first)} in A, {len(second)} in B)"
    if not first:
        return "neither has an answer"
    # Several samples of a question have one prompt, rotations of its options have one each.
    changed = sum(
        {(r.question, r.gold) for r in first[key]} != {(r.question, r.gold) for r in second[key]} for key in first
    )
    if changed:
        return f"the prompts differ: {changed} of {len(first)} questions in their text or in the order of their options"
    return None


def _line(first: Answers, second: Answers) -> Line:
    ours, theirs = _by_question(first.records), _by_question(second.records)
    differences = [_mean(theirs[key]) - _mean(ours[key]) for key in sorted(ours)]
    n, fell, rose = len(differences), sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    if all(len(records) == 1 for side in (ours, theirs) for records in side.values()):
        test, p = "exact McNemar", st.mcnemar_exact(fell, rose)
        lo, hi = st.paired_bootstrap_interval(fell, rose, n, seed=BOOTSTRAP_SEED)
    else:
        test, p = "permutation of means", st.paired_permutation_test(differences, seed=BOOTSTRAP_SEED)
        lo, hi = st.paired_mean_interval(differences, seed=BOOTSTRAP_SEED)
    return Line(
        task=first.task,
        protocol=first.protocol,
        split=first.split,
        n=n,
        first=_rate(ours),
        second=_rate(theirs),
        difference=mean(differences),
        difference_lo=lo,
        difference_hi=hi,
        fell=fell,
        rose=rose,
        test=test,
        p=p,
        p_corrected=p,
        minimum_detectable=st.minimum_detectable_difference(n, mean(d * d for d in differences)),
        verdict="no difference shown",
    )


def _rate(questions: Mapping[str, Sequence[Record]]) -> Rate:
    answers = min(map(len, questions.values()))
    if all(len(records) == 1 for records in questions.values()):
        right = sum(records[0].correct for records in questions.values())
        lo, hi = st.wilson_interval(right, len(questions))
        return Rate(accuracy=right / len(questions), lo=lo, hi=hi, answers=answers)
    found = mean_over_questions([_mean(records) for records in questions.values()])
    return Rate(accuracy=found.value, lo=found.lo, hi=found.hi, answers=answers)


def _verdict(line: Line) -> Verdict:
    if line["p_corrected"] >= ALPHA or line["difference_lo"] <= 0 <= line["difference_hi"]:
        return "no difference shown"
    return "above" if line["difference"] > 0 else "below"


def _by_question(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.id, []).append(record)
    return found


def _mean(records: Sequence[Record]) -> float:
    return sum(r.correct for r in records) / len(records)


def _said(record: Record) -> Said:
    return Said(completion=record.completion, parsed=record.parsed, correct=record.correct)
