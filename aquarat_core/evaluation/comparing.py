"""Two evaluations side by side: every task and protocol that both have, compared question by question.

Only the same questions are compared, with the same prompts, grader and way of answering; what is not the same is listed
with the reason. A difference counts only if the test, corrected for the number of lines, and the interval of the
difference both say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, TypedDict

from aquarat_core.config.evaluation import Asked
from aquarat_core.config.tasks import UNNAMED_TASK
from aquarat_core.evaluation import statistics as st
from aquarat_core.evaluation.figures import grouped
from aquarat_core.evaluation.power import detectable_by_mcnemar, fewest_one_sided, minimum_detectable_difference
from aquarat_core.evaluation.records import Record, prompt_hash
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.evaluation.sampling import mean_over_questions
from aquarat_core.evaluation.summary import ALPHA, BOOTSTRAP_SEED, Verdict, paired_verdict

MCNEMAR = "exact McNemar"
MAY_DIFFER = frozenset({"limit", "permute_options", "seed", "samples", "baseline"})
"""Settings that may differ: their effect shows in the questions, or only makes means more precise, or they are not
about the answers."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one checkpoint answered to the questions of one task, by one protocol."""

    name: str
    """Task and protocol, and the settings that differ from the usual, such as another split or the calculator."""
    task: str
    protocol: str
    split: str
    grader: str
    settings: Mapping[str, Any]
    """How the questions were asked, such as the temperature and the limit of new tokens."""
    records: Sequence[Record]
    """One or several answers per question; the id tells which question."""


class Rate(TypedDict):
    """An accuracy with its 95 % interval, as shares; of repeated answers the mean over questions, clustered by them."""

    accuracy: float
    lo: float
    hi: float
    answers: int
    """Answers per question; the smallest number if it varies."""


class Line(TypedDict):
    """One task by one protocol; differences are second minus first, in shares."""

    name: str
    task: str
    protocol: str
    split: str
    n: int
    """Questions compared."""
    asked: tuple[int, int]
    """Questions that each side asked; more than n where only those of both are compared."""
    first: Rate
    second: Rate
    difference: float
    difference_lo: float
    difference_hi: float
    fell: int
    """Questions that the first side answered correctly more often."""
    rose: int
    """Questions that the second side answered correctly more often."""
    mean_square: float
    """Mean of the squared differences of the questions."""
    test: str
    p: float
    p_corrected: float
    """The p-value after the correction over all lines."""
    minimum_detectable: float | None
    """The smallest difference that would be found four times out of five at p < 0.05 / number of lines; None if there
    is none, or too few questions differ to say."""
    verdict: Verdict


class Unpaired(TypedDict):
    """An evaluation that is not compared, and why."""

    name: str
    reason: str


class Said(TypedDict):
    """One answer."""

    completion: str
    parsed: str | None
    correct: bool


class Flip(TypedDict):
    """A question that one side answered correctly more often."""

    name: str
    """The evaluation's name."""
    id: str
    question: str
    gold: str
    first: list[Said]
    second: list[Said]


class SideBySide(TypedDict):
    """The comparison of two evaluations."""

    lines: list[Line]
    not_compared: list[Unpaired]


def answers_of(evaluated: Evaluated, config: Mapping[str, Any]) -> list[Answers]:
    """The answers of a report's checkpoint by evaluation, in the report's order; `config` is that of its manifest."""
    if not (found := evaluated.report.get("evaluations")):
        return [_answers_of_older(evaluated, config)]
    return [
        Answers(
            e["name"], e["task"], e["protocol"], e["split"], e["hashes"]["grader"], e["settings"],
            evaluated.by_name[e["name"]],
        )
        for e in found
    ]  # fmt: skip


def _answers_of_older(evaluated: Evaluated, config: Mapping[str, Any]) -> Answers:
    """A report from before there were several evaluations is on one task, greedily, and may not name it."""
    how = evaluated.report["evaluation"]
    asked = Asked(
        task=how.get("task", UNNAMED_TASK), protocol="greedy", split=how["split"], limit=how["limit"], samples=1,
        temperature=0.0, max_new_tokens=how["max_new_tokens"], calculator=bool(config.get("calculator")),
        cue="answer", permute_options=how["permute_options"], seed=how["seed"],
    )  # fmt: skip
    return Answers(
        asked.name, asked.task, asked.protocol, asked.split, how["parser"], asked.settings, evaluated.records
    )


def side_by_side(first: Sequence[Answers], second: Sequence[Answers], common: bool = False) -> SideBySide:
    """Compares the evaluations that both have, in the order of the first; gives a reason for those that are not
    compared.

    Where one side asked other questions too, the evaluation is not compared, or with `common` by the questions that
    both asked.
    """
    ours, theirs = ({answers.name: answers for answers in side} for side in (first, second))
    lines: list[Line] = []
    unpaired: list[Unpaired] = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        one, other = ours.get(name), theirs.get(name)
        asked = _count(one), _count(other)
        if common and one and other:
            one, other = of_common_questions(one, other)
        if reason := _unpaired(one, other):
            unpaired.append(Unpaired(name=name, reason=reason))
        elif one and other:
            lines.append(_line(one, other, asked))
    correct(lines)
    return SideBySide(lines=lines, not_compared=unpaired)


def correct(lines: Sequence[Line], how: st.Correction = "holm") -> None:
    """Fills in what depends on the number of lines: corrected p-values, findings and detectable differences."""
    adjusted = st.holm if how == "holm" else st.benjamini_hochberg
    for line, p in zip(lines, adjusted([line["p"] for line in lines]), strict=True):
        line["p_corrected"] = p
        line["verdict"] = paired_verdict(line["difference"], line["difference_lo"], line["difference_hi"], p)
        line["minimum_detectable"] = _detectable(line, ALPHA / len(lines))


def of_common_questions(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """Both with the answers to the questions that both have; the ids say which are the same."""
    both = {r.id for r in first.records} & {r.id for r in second.records}
    one, other = (replace(side, records=[r for r in side.records if r.id in both]) for side in (first, second))
    return one, other


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
                    name=first.name, id=key, question=asked.question, gold=asked.gold,
                    first=list(map(_said, ours[key])), second=list(map(_said, theirs[key])),
                )
            )  # fmt: skip
    return found


def _unpaired(first: Answers | None, second: Answers | None) -> str | None:
    if first is None or second is None:
        return f"only {'B' if first is None else 'A'} has it"
    if first.grader != second.grader:
        return f"the graders differ: {first.grader} and {second.grader}"
    names = sorted((first.settings.keys() | second.settings.keys()) - MAY_DIFFER)
    pairs = [(name, first.settings.get(name), second.settings.get(name)) for name in names]
    if different := [f"{name} is {a} in A and {b} in B" for name, a, b in pairs if a != b]:
        return f"the questions were not asked alike: {'; '.join(different)}"
    return _question_difference(_by_question(first.records), _by_question(second.records))


def _question_difference(first: Mapping[str, Sequence[Record]], second: Mapping[str, Sequence[Record]]) -> str | None:
    if missing := first.keys() ^ second.keys():
        both = len(first.keys() & second.keys())
        hint = f": --common compares the {both} that are in both" if both else ""
        return f"{len(missing)} question ids are in one of the two only ({len(first)} in A, {len(second)} in B){hint}"
    if not first:
        return "they have no question in common"
    # Several samples of a question have one prompt, rotations of its options have one each.
    if changed := sum(_prompts(first[key]) != _prompts(second[key]) for key in first):
        return f"the prompts differ: {changed} of {len(first)} questions in their text or in the order of their options"
    return None


def _line(first: Answers, second: Answers, asked: tuple[int, int]) -> Line:
    ours, theirs = _by_question(first.records), _by_question(second.records)
    differences = [_mean(theirs[key]) - _mean(ours[key]) for key in sorted(ours)]
    n, fell, rose = len(differences), sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    if all(len(records) == 1 for side in (ours, theirs) for records in side.values()):
        test, p = MCNEMAR, st.mcnemar_exact(fell, rose)
        lo, hi = st.paired_bootstrap_interval(fell, rose, n, seed=BOOTSTRAP_SEED)
    else:
        test, p = "permutation of means", st.paired_permutation_test(differences, seed=BOOTSTRAP_SEED)
        lo, hi = st.paired_mean_interval(differences, seed=BOOTSTRAP_SEED)
    return Line(
        name=first.name,
        task=first.task,
        protocol=first.protocol,
        split=first.split,
        n=n,
        asked=asked,
        first=_rate(ours),
        second=_rate(theirs),
        difference=mean(differences),
        difference_lo=lo,
        difference_hi=hi,
        fell=fell,
        rose=rose,
        mean_square=mean(d * d for d in differences),
        test=test,
        p=p,
        p_corrected=p,
        minimum_detectable=None,
        verdict="no difference shown",
    )


def _rate(questions: Mapping[str, Sequence[Record]]) -> Rate:
    answers = min(map(len, questions.values()))
    if all(len(records) == 1 for records in questions.values()):
        right = sum(records[0].correct for records in questions.values())
        lo, hi = st.wilson_interval(right, len(questions))
        return Rate(accuracy=right / len(questions), lo=lo, hi=hi, answers=answers)
    found = mean_over_questions(list(map(_mean, questions.values())), sum(map(len, questions.values())))
    return Rate(accuracy=found.value, lo=found.lo, hi=found.hi, answers=answers)


def _detectable(line: Line, alpha: float) -> float | None:
    """The smallest detectable difference at that level; the corrections are at least as lenient."""
    n, moved = line["n"], line["fell"] + line["rose"]
    if line["test"] == MCNEMAR:
        return detectable_by_mcnemar(n, moved / n, alpha=alpha)
    if moved < fewest_one_sided(alpha):
        return None
    return minimum_detectable_difference(n, line["mean_square"], alpha=alpha)


def _by_question(records: Sequence[Record]) -> dict[str, list[Record]]:
    return {rows[0].id: rows for rows in grouped(records)}


def _count(answers: Answers | None) -> int:
    return len({r.id for r in answers.records}) if answers else 0


def _prompts(records: Sequence[Record]) -> set[tuple[str, str]]:
    """Hashes of the prompts with the right answers; older records have no hash, so it is computed."""
    return {(r.prompt_sha256 or prompt_hash(r.question), r.gold) for r in records}


def _mean(records: Sequence[Record]) -> float:
    return sum(r.correct for r in records) / len(records)


def _said(record: Record) -> Said:
    return Said(completion=record.completion, parsed=record.parsed, correct=record.correct)
