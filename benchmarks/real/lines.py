"""The lines that `./run bench rl-real` prints: a claim, what was measured, and whether it holds.

The question is the unit of every interval and test: its value is the share of its answers that are right, or that can
be read. Comparisons are paired by question (`evaluation/statistics.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Literal, NamedTuple

from aquarat_core.evaluation import statistics as st
from aquarat_core.evaluation.power import minimum_detectable_difference
from aquarat_core.evaluation.sampling import mean_over_questions

SEED = 5
FORM = 0.98
"""The least share of answers that can be read."""
LIFTED = 0.6
"""The least mean reward on the questions that RL was trained on."""
CHANCE = 0.2
NOT_BELOW = 0.05
"""A fall with a smaller one-sided p is called one."""
RISE = 0.01
"""A rise with a smaller one-sided p is called one."""
TWO_SIDED = {"rise": 2 * RISE, "fall": 2 * NOT_BELOW, "either": 0.05}
"""The two-sided level of the test of each side."""
PAIRED = "paired permutation of question means"


@dataclass(frozen=True, slots=True)
class Line:
    """One claim about one checkpoint."""

    name: str
    claim: str
    passed: bool | None
    """None for what is measured without a claim."""
    value: float | None = None
    """The mean over questions, of the later checkpoint."""
    interval: tuple[float, float] | None = None
    """95 % of the value."""
    before: float | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    """95 % of the difference from `before`."""
    n: int = 0
    """Questions."""
    answers: int = 0
    """Answers to all of them together."""
    test: str | None = None
    p: float | None = None
    detectable: float | None = None
    """The difference that would be found four times out of five; a smaller one may well be missed."""
    reason: str | None = None
    """Why it was not measured."""

    def to_json(self) -> dict[str, Any]:
        """All fields that say something."""
        return {name: value for name, value in asdict(self).items() if value is not None or name == "passed"}

    def __str__(self) -> str:
        verdict = {True: "pass", False: "FAIL", None: "measured"}[self.passed]
        if self.value is None or self.interval is None:
            return f"{verdict:8} {self.name}: {self.claim}: not measured, because {self.reason}"
        said = f"{_percent(self.value)} {_interval(self.interval)}"
        if self.before is not None and self.difference is not None and self.difference_interval is not None:
            moved = f"{100 * self.difference:+.1f} points {_interval(self.difference_interval)}"
            said = f"{_percent(self.before)} -> {said}, {moved}"
        tested = f", p = {self.p:.2g} ({self.test})" if self.p is not None else ""
        if self.detectable is not None:
            tested += f", which finds {100 * self.detectable:.1f} points"
        return f"{verdict:8} {self.name}: {self.claim}: {said}, n = {self.n} x {self.answers / self.n:.3g}{tested}"


class Group(NamedTuple):
    """The values of one checkpoint by question, and the number of answers that they are from."""

    values: Mapping[str, float]
    answers: int


def not_measured(name: str, claim: str, reason: str) -> Line:
    return Line(name, claim, False, reason=reason)


def at_least(name: str, claim: str, found: Group, least: float) -> Line:
    """Whether the mean itself is at least `least`."""
    value = mean_over_questions(list(found.values.values()), found.answers)
    passed = value.value >= least
    return Line(name, claim, passed, value.value, (value.lo, value.hi), n=len(found.values), answers=found.answers)


def not_below_chance(name: str, claim: str, found: Group, chance: float) -> Line:
    """Whether a test fails to find the mean below `chance`."""
    value = mean_over_questions(list(found.values.values()), found.answers)
    if value.se > 0:
        p = 0.5 * math.erfc((chance - value.value) / value.se / math.sqrt(2))
    else:
        p = float(value.value >= chance)
    return Line(
        name, claim, p >= NOT_BELOW, value.value, (value.lo, value.hi), n=len(found.values), answers=found.answers,
        test="normal, of question means, one-sided", p=p,
    )  # fmt: skip


def rises(name: str, claim: str, before: Group, after: Group, least: float = 0.0) -> Line:
    """Whether the mean rose, and is at least `least`."""
    return _paired(name, claim, before, after, "rise", lambda p, value: p < RISE and value >= least)


def does_not_fall(name: str, claim: str, before: Group, after: Group) -> Line:
    """Whether a test fails to find that the mean fell."""
    return _paired(name, claim, before, after, "fall", lambda p, _: p >= NOT_BELOW)


def does_not_rise(name: str, claim: str, before: Group, after: Group) -> Line:
    """Whether a test fails to find that the mean rose: what a control must show."""
    return _paired(name, claim, before, after, "rise", lambda p, _: p >= RISE)


def measured(name: str, claim: str, before: Group, after: Group) -> Line:
    """The difference, without a claim."""
    return _paired(name, claim, before, after, "either", None)


def _paired(
    name: str,
    claim: str,
    before: Group,
    after: Group,
    side: Literal["rise", "fall", "either"],
    passes: Callable[[float, float], bool] | None,
) -> Line:
    assert before.values.keys() == after.values.keys(), f"{name}: the two were not asked the same questions"
    differences = [after.values[key] - before.values[key] for key in sorted(before.values)]
    value, moved = mean_over_questions(list(after.values.values()), after.answers), mean(differences)
    p = st.paired_permutation_test(differences, seed=SEED)
    if side != "either":  # the distribution of a mean under flipped signs is symmetric
        p = p / 2 if (moved > 0 if side == "rise" else moved < 0) else 1 - p / 2
    return Line(
        name, claim, passes(p, value.value) if passes else None, value.value, (value.lo, value.hi),
        before=mean(before.values.values()), difference=moved,
        difference_interval=st.paired_mean_interval(differences, seed=SEED), n=len(differences),
        answers=after.answers, test=f"{PAIRED}, {'two' if side == 'either' else 'one'}-sided", p=p,
        detectable=minimum_detectable_difference(
            len(differences), mean(d * d for d in differences), alpha=TWO_SIDED[side]
        ),
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"
