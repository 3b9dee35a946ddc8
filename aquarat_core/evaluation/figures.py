"""From the records of one evaluation to its figures, by protocol; the same from memory as from a file of records.

No accuracy is without an interval: Wilson's for single answers, one clustered by question where a question was asked
several times. Beside it stand guessing, the best constant answer, the training split's commonest answer and, where
there are options, the longest option.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from string import ascii_uppercase

from aquarat_core.config.protocols import CORE, HARNESS, RecordedProtocol
from aquarat_core.errors import DataError
from aquarat_core.evaluation import calibration, guessing, option_bias, sampling
from aquarat_core.evaluation import statistics as st
from aquarat_core.evaluation.figure_types import (
    Baselines,
    Bias,
    Calibration,
    Evaluation,
    Figures,
    Guessed,
    Hashes,
    Interval,
    Place,
    Rate,
    RateIntervals,
    Rates,
    ReliabilityBin,
    Rotation,
)
from aquarat_core.evaluation.records import Facts, Record, by_evaluation, read_facts, read_records
from aquarat_core.evaluation.summary import Baseline, none_read, paired_verdict, questions_sha256, summarize

LONGEST_SHOWN = 80
"""Maximum length of a baseline's name, which is an answer."""
SEED = 0
"""Seed of simulations and resampling."""


def evaluate(facts: Facts, records: Sequence[Record]) -> Evaluation:
    """The figures of one evaluation. Raises `DataError` without records."""
    if not records:
        raise DataError(f"{facts['name']} has no records: evaluate at least one question")
    questions = grouped(records)
    first = [rows[0] for rows in questions]
    compute = {"sampled": _sampled, "rotated": _rotated}.get(facts["protocol"], _single)
    figures = compute(facts, questions)
    if "harness" in facts:
        figures["harness"] = facts["harness"]
    return Evaluation(
        name=facts["name"],
        task=facts["task"],
        protocol=facts["protocol"],
        split=facts["split"],
        questions=facts["questions"],
        settings=facts["settings"],
        n=len(questions),
        answers=len(records),
        figures=figures,
        baselines=_baselines(facts, questions),
        rates=Rates(
            parsed=_share(map(_parsed, records)),
            truncated=_share(map(_truncated, records)),
            ambiguous=_share(map(_ambiguous, records)),
            too_long=_share(map(_too_long, records)),
        ),
        rate_intervals=RateIntervals(
            parsed=_interval(questions, _parsed),
            truncated=_interval(questions, _truncated),
            ambiguous=_interval(questions, _ambiguous),
            too_long=_interval(questions, _too_long),
        ),
        hashes=Hashes(
            questions_sha256=questions_sha256(first),
            prompts_sha256=_prompts_sha256(records),
            grader=facts["grader"],
            data_asset=facts["data_asset"],
            data_version=facts["data_version"],
        ),
        stop_reasons=dict(sorted(Counter(r.stop_reason for r in records).items())),
    )


def rebuild(path: str | Path) -> list[Evaluation]:
    """The figures of all evaluations of a `questions.parquet`, from that file alone; the main one first.

    Raises `DataError` for a file from before it held what is needed.
    """
    records = by_evaluation(read_records(path))
    return [evaluate(facts, records.get(facts["name"], [])) for facts in read_facts(path)]


def remarks(evaluations: Iterable[Evaluation]) -> list[str]:
    """Warnings to read before any figure: evaluations without a readable answer, and questions that did not fit."""
    found: list[str] = []
    for e in evaluations:
        if not e["rates"]["parsed"] and e["rates"]["too_long"] < 1:
            found.append(f"{e['name']}: {none_read(e['answers'])}")
        if cropped := e["figures"].get("harness", {}).get("prompts_cropped", 0):
            found.append(
                f"{e['name']}: the prompts of {cropped} of {e['n']} questions are longer than the model's context, and "
                "lost their beginning"
            )
        if too_long := e["stop_reasons"].get("too_long", 0):
            budget = e["settings"].get("max_new_tokens")
            room = f"for max_new_tokens {budget} " if budget else ""
            found.append(
                f"{e['name']}: {too_long} of {e['answers']} questions leave no room {room}in the model's context, and "
                "count as wrong"
            )
    return found


def grouped(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each question, by sample, questions in their order."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.id, []).append(record)
    return [sorted(rows, key=lambda r: r.sample) for rows in found.values()]


def _single(facts: Facts, questions: Sequence[Sequence[Record]]) -> Figures:
    """One answer to each question: greedy, or the most likely choice."""
    records = [rows[0] for rows in questions]
    s = summarize(records, facts["majority"] or "", mean(r.chance for r in records), facts["categories"])
    found = Figures(
        correct=s["correct"],
        accuracy=s["accuracy"],
        lo=s["accuracy_lo"],
        hi=s["accuracy_hi"],
        p_above_chance=s["p_above_uniform"],
        p_against_constant=s["p_against_constant"],
        against_constant=s["against_constant"],
        letters=s["letters"],
        letter_entropy_bits=s["letter_entropy_bits"],
        mean_tokens=s["mean_tokens"],
    )
    scored = [r for r in records if r.choice_scores is not None and max(r.choice_scores) > -math.inf]
    if scored:
        _add_scores(found, facts["protocol"], scored)
    return found


def _add_scores(found: Figures, protocol: RecordedProtocol, records: Sequence[Record]) -> None:
    """Adds the figures that follow from the scores of choices to `found`; questions without scores are left out."""
    scores_QL = [r.choice_scores or () for r in records]
    golds = [ascii_uppercase.index(r.gold) for r in records]
    probabilities_QL = calibration.choice_probabilities(scores_QL)
    confidence, correct = [max(p) for p in probabilities_QL], [r.correct for r in records]
    if_calibrated = calibration.ece_if_calibrated(confidence, seed=SEED)
    found["margin"] = mean(top - second for top, second, *_ in (sorted(s, reverse=True) for s in scores_QL))
    found["gold_margin"] = mean(
        s[gold] - max(x for i, x in enumerate(s) if i != gold) for s, gold in zip(scores_QL, golds, strict=True)
    )
    if protocol not in ("continuations", CORE, HARNESS):
        found["letter_mass"] = mean(math.fsum(map(math.exp, s)) for s in scores_QL)
    found["calibration"] = Calibration(
        brier=calibration.brier(probabilities_QL, golds),
        log_loss=calibration.log_loss(probabilities_QL, golds),
        ece=calibration.expected_calibration_error(confidence, correct),
        ece_if_calibrated=if_calibrated.mean,
        ece_if_calibrated_95=if_calibrated.upper,
        confidence=mean(confidence),
        reliability=[ReliabilityBin(**b._asdict()) for b in calibration.reliability(confidence, correct)],
    )


def _sampled(facts: Facts, questions: Sequence[Sequence[Record]]) -> Figures:
    """Several samples of each question: their mean, and what the best and the commonest of k would score."""
    correct_QS = [[r.correct for r in rows] for rows in questions]
    n, average = len(correct_QS[0]), sampling.mean_at_n(correct_QS)
    chance_Q = [rows[0].chance for rows in questions]
    counts, ks = [sum(correct_S) for correct_S in correct_QS], powers_of_two(n)
    answers_QS, golds = [[_vote(r) for r in rows] for rows in questions], [rows[0].gold for rows in questions]
    found = Figures(
        correct=sum(counts) / n,
        accuracy=average.value,
        lo=average.lo,
        hi=average.hi,
        se=average.se,
        samples=n,
        mean_tokens=mean(r.n_tokens for rows in questions for r in rows),
        pass_at={
            str(k): _guessed(sampling.pass_at_k(counts, n, k), sampling.pass_at_k_of_chance(chance_Q, k)) for k in ks
        },
        majority_at={
            str(k): _guessed(sampling.majority_at_k(answers_QS, golds, k), mean(chance_Q)) for k in ks if k > 1
        },
    )
    _add_test(found, questions, [(answers_S, gold) for answers_S, gold in zip(answers_QS, golds, strict=True)])
    return found


def _add_test(
    found: Figures,
    questions: Sequence[Sequence[Record]],
    chosen_Q: Sequence[tuple[Sequence[Hashable | None], Hashable]],
) -> None:
    """Adds the test against guessing: which option each answer to a question chose, and which one is right.

    Nothing is added where a question has no options, so that a guess is never right, or answers name others.
    """
    answered: list[guessing.Answered] = []
    for rows, (answers, gold) in zip(questions, chosen_Q, strict=True):
        options = round(1 / rows[0].chance) if rows[0].chance else 0
        if len({gold, *answers} - {None}) > options or not math.isclose(options * rows[0].chance, 1):
            return
        answered.append(guessing.Answered(answers, gold, options))
    found["p_above_chance"] = guessing.p_above_guessing(answered, seed=SEED)


def _vote(record: Record) -> str | None:
    """The answer as a majority vote counts it: all right answers are the same, however they are written."""
    return record.gold if record.correct else record.parsed


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... up to n."""
    return [1 << i for i in range(n.bit_length())]


def _rotated(facts: Facts, questions: Sequence[Sequence[Record]]) -> Figures:
    """Greedy answers under all cyclic orders of the options."""
    average = sampling.mean_over_questions(
        [_share(r.correct for r in rows) for rows in questions], sum(map(len, questions))
    )
    found = Figures(
        correct=average.value * len(questions),
        accuracy=average.value,
        lo=average.lo,
        hi=average.hi,
        se=average.se,
        mean_tokens=mean(r.n_tokens for rows in questions for r in rows),
        rotation=_rotation(questions),
    )
    _add_test(found, questions, [([_option(r, len(rows)) for r in rows], _gold(rows)) for rows in questions])
    return found


def _option(record: Record, n: int) -> int | str | None:
    """Which option was answered: by its place before the rotation, or as it is where the options keep their order."""
    return _content(record, n) if n > 1 else record.parsed


def _gold(rows: Sequence[Record]) -> int | str:
    n = len(rows)
    return (ascii_uppercase.index(rows[0].gold) - rows[0].sample) % n if n > 1 else rows[0].gold


def _rotation(questions: Sequence[Sequence[Record]]) -> Rotation:
    rotated = [rows for rows in questions if len(rows) > 1]
    pooled = [r for rows in rotated for r in rows]
    places = option_bias.accuracy_by_place([ascii_uppercase.index(r.gold) for r in pooled], [r.correct for r in pooled])
    alike = option_bias.consistency([[_content(r, len(rows)) for r in rows] for rows in rotated]) if rotated else None
    right = sum(rows[0].correct for rows in questions)
    lo, hi = st.wilson_interval(right, len(questions))
    differences = [_share(r.correct for r in rows) - rows[0].correct for rows in questions]
    difference_lo, difference_hi = st.paired_mean_interval(differences, seed=SEED)
    difference, p = mean(differences), st.paired_permutation_test(differences, seed=SEED)
    return Rotation(
        rotated=len(rotated),
        kept=len(questions) - len(rotated),
        by_place=[Place(place=p.place, n=p.n, accuracy=p.accuracy, lo=p.lo, hi=p.hi) for p in places],
        consistency=Rate(value=alike.share, lo=alike.lo, hi=alike.hi) if alike else None,
        agreement=alike.agreement if alike else None,
        bias={str(n): bias for n in sorted({len(rows) for rows in rotated}) if (bias := _bias(rotated, n))},
        as_given=Rate(value=right / len(questions), lo=lo, hi=hi),
        difference=Rate(value=difference, lo=difference_lo, hi=difference_hi),
        difference_p=p,
        difference_verdict=paired_verdict(difference, difference_lo, difference_hi, p),
    )


def _content(record: Record, n: int) -> int | None:
    """Which option was answered, by its place before the rotation."""
    return None if record.parsed is None else (ascii_uppercase.index(record.parsed) - record.sample) % n


def _bias(rotated: Sequence[Sequence[Record]], n: int) -> Bias | None:
    """The bias of the answered places, and of the right answers by place, over the questions with n options."""
    asked = [rows for rows in rotated if len(rows) == n]
    found = option_bias.place_bias([[_place(r.parsed) for r in rows] for rows in asked], n, seed=SEED)
    if found is None:
        return None
    right = st.cochran_q([[r.correct for r in sorted(rows, key=lambda r: r.gold)] for rows in asked])
    return Bias(
        counts=list(found.counts), chi2=found.chi2, p=found.p, cramers_v=found.cramers_v,
        cochran_q=right.q, cochran_p=right.p,
    )  # fmt: skip


def _place(letter: str | None) -> int | None:
    return None if letter is None else ascii_uppercase.index(letter)


def _guessed(found: sampling.Mean, guess: float) -> Guessed:
    return Guessed(value=found.value, lo=found.lo, hi=found.hi, guess=guess)


def _baselines(facts: Facts, questions: Sequence[Sequence[Record]]) -> Baselines:
    right = defaultdict[str, float](float)
    for rows in questions:
        for record in rows:
            right[record.gold] += 1 / len(rows)
    answers = facts["categories"] or sorted(right)
    constant, majority = max(answers, key=lambda x: right[x]), facts["majority"]
    n = len(questions)
    return Baselines(
        chance=mean(rows[0].chance for rows in questions),
        constant=Baseline(letter=_shown(constant), accuracy=right[constant] / n),
        majority=None if majority is None else Baseline(letter=_shown(majority), accuracy=right[majority] / n),
        longest=facts["longest"],
    )


def _shown(answer: str) -> str:
    """An answer, shortened, because it may be a whole program."""
    return answer if len(answer) <= LONGEST_SHOWN else f"{answer[: LONGEST_SHOWN - 3]}..."


def _prompts_sha256(records: Sequence[Record]) -> str:
    shown = sorted(f"{r.id} {r.sample} {r.prompt_sha256}" for r in records)
    return hashlib.sha256("\n".join(shown).encode()).hexdigest()


def _parsed(record: Record) -> bool:
    return record.parsed is not None


def _truncated(record: Record) -> bool:
    return record.truncated


def _ambiguous(record: Record) -> bool:
    return record.ambiguous


def _too_long(record: Record) -> bool:
    return record.stop_reason == "too_long"


def _interval(questions: Sequence[Sequence[Record]], holds: Callable[[Record], bool]) -> Interval:
    """The interval of the share of answers for which it holds; Wilson's where each question has one answer."""
    answers = sum(map(len, questions))
    if answers == len(questions):
        lo, hi = st.wilson_interval(sum(holds(rows[0]) for rows in questions), answers)
    else:
        found = sampling.mean_over_questions([_share(map(holds, rows)) for rows in questions], answers)
        lo, hi = found.lo, found.hi
    return Interval(lo=lo, hi=hi)


def _share(found: Iterable[bool]) -> float:
    marks = list(found)
    return sum(marks) / len(marks)
