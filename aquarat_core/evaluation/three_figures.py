"""Three figures of one model's answers by letter, because one accuracy mixes what it knows with how it writes.

As generated, an answer that cannot be read is wrong. Among those that can be read the form no longer counts, but these
questions are no random sample of all. After a forced cue every solution has a letter, and its probability also tells
how sure the model is: renormalized over the letters, its mean over questions has less noise than a share of right ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from string import ascii_uppercase
from typing import TypedDict

from aquarat_core.config.protocols import GREEDY
from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation import statistics as st
from aquarat_core.evaluation.calibration import choice_probabilities
from aquarat_core.evaluation.records import Record
from aquarat_core.evaluation.wording import bounds, percent, rate


class Share(TypedDict):
    """Answers that are right among `n`; `value` and the 95 % interval are None if `n` is 0."""

    n: int
    value: float | None
    lo: float | None
    hi: float | None


class ThreeFigures(TypedDict):
    """The three figures of one evaluation."""

    as_generated: Share
    among_parsed: Share
    """The share that is correct among the answers that could be read."""
    forced_letter: Share
    """The most likely letter after the cue; questions without room for it count as wrong."""
    right_probability: Share
    """Mean probability of the right letter there, among the letters of the question."""


def three_figures(generated: Sequence[Record], cued: Sequence[Record]) -> ThreeFigures:
    """The figures of greedy answers and of the letters that were forced after the same solutions."""
    parsed = [r for r in generated if r.parsed is not None]
    return ThreeFigures(
        as_generated=_share(generated),
        among_parsed=_share(parsed),
        forced_letter=_share(cued),
        right_probability=_mean_probability(cued),
    )


def of_evaluation(name: str, records: Mapping[str, Sequence[Record]]) -> ThreeFigures | None:
    """The figures of the greedy evaluation of that name, if the same questions were also asked after a forced cue.

    `records` are those of all evaluations by their names.
    """
    if f"/{GREEDY}" not in name:
        return None
    generated, cued = records.get(name, ()), records.get(name.replace(f"/{GREEDY}", "/cued"), ())
    same = {r.id for r in generated} == {r.id for r in cued}
    return three_figures(generated, cued) if generated and same else None


def metrics(found: ThreeFigures) -> dict[str, float | int | None]:
    """The second and the third figure, and the mean probability, as a manifest's metrics; the first is there."""
    return {
        name if key == "value" else f"{name}_{key}": value
        for name, share in (
            ("accuracy_among_parsed", found["among_parsed"]),
            ("accuracy_forced_letter", found["forced_letter"]),
            ("right_probability", found["right_probability"]),
        )
        for key, value in (("value", share["value"]), ("lo", share["lo"]), ("hi", share["hi"]), ("n", share["n"]))
    }


def section(found: ThreeFigures | None) -> list[doc.Block]:
    """The figures as a table; nothing if there are none."""
    if found is None:
        return []
    rows = tuple((name, *_cells(share)) for name, share in _named(found))
    caption = (
        "As generated, what cannot be read is wrong. Questions whose answers can be read are no random sample. The "
        "last two need no form: the model's own solution is followed by the task's words for an answer, and the "
        "letters after them are compared."
    )
    return [
        doc.Heading("Three figures"),
        doc.Table(("Answers", "Questions", "Right", "95% CI"), rows, caption=caption),
    ]


def as_text(name: str, found: ThreeFigures) -> str:
    """The figures on one line."""
    said = [
        f"{what} {rate(share['value'], share['lo'], share['hi'])} of {share['n']:,}"
        if share["value"] is not None and share["lo"] is not None and share["hi"] is not None
        else f"{what} none of 0"
        for what, share in _named(found)
    ]
    return f"{name}: {'; '.join(said)}"


def _named(found: ThreeFigures) -> tuple[tuple[str, Share], ...]:
    return (
        ("as generated", found["as_generated"]),
        ("among those that can be read", found["among_parsed"]),
        ("letter after a forced cue", found["forced_letter"]),
        ("mean probability of the right letter", found["right_probability"]),
    )


def _cells(share: Share) -> tuple[str, str, str]:
    value, lo, hi = share["value"], share["lo"], share["hi"]
    if value is None or lo is None or hi is None:
        return f"{share['n']:,}", "-", "-"
    return f"{share['n']:,}", percent(value), bounds(lo, hi)


def _share(records: Sequence[Record]) -> Share:
    n, right = len(records), sum(r.correct for r in records)
    if not n:
        return Share(n=0, value=None, lo=None, hi=None)
    lo, hi = st.wilson_interval(right, n)
    return Share(n=n, value=right / n, lo=lo, hi=hi)


def _mean_probability(cued: Sequence[Record]) -> Share:
    """The interval is a bootstrap one of the questions' probabilities; a question without scores has 0."""
    if not cued:
        return Share(n=0, value=None, lo=None, hi=None)
    scored = [r for r in cued if r.choice_scores is not None]
    found = [p[ascii_uppercase.index(r.gold)] for r, p in zip(scored, _probabilities(scored), strict=True)]
    found += [0.0] * (len(cued) - len(scored))
    lo, hi = st.paired_mean_interval(found, seed=0)
    return Share(n=len(found), value=mean(found), lo=lo, hi=hi)


def _probabilities(records: Sequence[Record]) -> Sequence[Sequence[float]]:
    return choice_probabilities([r.choice_scores or () for r in records])
