"""The sections of a page on several evaluations: all of them in one table, ChatCORE, and what each protocol adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation.chat_core import ChatCore
from aquarat_core.evaluation.figure_types import Calibration, Evaluation, Figures, Rotation
from aquarat_core.evaluation.statistics import holm, p_text
from aquarat_core.evaluation.summary import Verdict
from aquarat_core.evaluation.wording import bounds, percent, rate, shortened

ORDERS: Mapping[Verdict, str] = {
    "above": "better over all orders",
    "below": "worse over all orders",
    "no difference shown": "no difference shown",
}
"""What a rotated evaluation's difference to the first order means."""


def overview_section(evaluations: Sequence[Evaluation]) -> list[doc.Block]:
    """All evaluations in one table, with their baselines; nothing if there is only the main one."""
    if len(evaluations) < 2:
        return []
    return [doc.Heading("All evaluations"), overview_table(evaluations), *above_chance(evaluations)]


def overview_table(evaluations: Sequence[Evaluation]) -> doc.Table:
    """All evaluations in one table, with their baselines."""
    header = (
        "Task / protocol", "Questions", "Accuracy", "95% CI", "Guessing", "Best constant answer", "Training majority",
        "Longest option", "Parsed", "Cut off", "Several answers",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for e in evaluations:
        f, b = e["figures"], e["baselines"]
        asked = f"{e['n']:,}" if e["answers"] == e["n"] else f"{e['n']:,} x {e['answers'] / e['n']:.3g}"
        majority, longest = b["majority"], b["longest"]
        rows.append(
            (
                e["name"],
                asked,
                percent(f["accuracy"]),
                bounds(f["lo"], f["hi"]),
                percent(b["chance"]),
                f"{percent(b['constant']['accuracy'])} ({shortened(b['constant']['letter'])})",
                f"{percent(majority['accuracy'])} ({shortened(majority['letter'])})" if majority else "-",
                "-" if longest is None else percent(longest),
                *rates_text(e),
            )
        )
    caption = (
        "Intervals are Wilson's; where a question has several answers (x n) the error is clustered by question. A task "
        "without a note is on its test split."
    )
    return doc.Table(header, tuple(rows), caption=caption)


def rates_text(e: Evaluation) -> tuple[str, str, str]:
    """The shares of answers that parsed, were cut off, and announced several answers; with their intervals,
    which older reports lack."""
    shares = e["rates"]["parsed"], e["rates"]["truncated"], e["rates"]["ambiguous"]
    if (found := e.get("rate_intervals")) is None:
        parsed, truncated, ambiguous = map(percent, shares)
    else:
        intervals = found["parsed"], found["truncated"], found["ambiguous"]
        parsed, truncated, ambiguous = (rate(x, i["lo"], i["hi"]) for x, i in zip(shares, intervals, strict=True))
    return parsed, truncated, ambiguous


def above_chance(evaluations: Sequence[Evaluation]) -> list[doc.Block]:
    """Which evaluations are above guessing, after a correction for their number, and which were not tested."""
    tested = [(e["name"], p) for e in evaluations if (p := e["figures"].get("p_above_chance")) is not None]
    if len(tested) < 2:
        return []
    corrected = holm([p for _, p in tested])
    above = [f"{name} ({p_text(p, 'p')})" for (name, _), p in zip(tested, corrected, strict=True) if p < 0.05]
    text = (
        f"Above guessing, with Holm's correction for {len(tested)} tests: {', '.join(above) if above else 'none'}. The "
        "tests are exact binomial ones; where a question has several answers, they are kept and the right option of "
        "each question is drawn anew."
    )
    if left := [e["name"] for e in evaluations if e["figures"].get("p_above_chance") is None]:
        text += f" Not tested, because no guess is right: {', '.join(left)}."
    return [doc.Paragraph(text)]


def chat_core_section(result: ChatCore | None) -> list[doc.Block]:
    """The value of ChatCORE and its tasks; nothing if it was not computed."""
    if result is None:
        return []
    rows = tuple(
        (
            row["evaluation"],
            f"{row['n']:,}",
            percent(row["accuracy"]),
            bounds(row["lo"], row["hi"]),
            percent(row["baseline"]),
            f"{row['centered']:.3f}",
            "yes" if row["counts"] else "no",
        )
        for row in result["tasks"]
    )
    header = ("Task / protocol", "Questions", "Accuracy", "95% CI", "Baseline", "Centered", "Counts")
    said = [
        f"{result['name']} is {result['value']:.4f}, 95% CI [{result['lo']:.4f}, {result['hi']:.4f}]: the mean of "
        "(accuracy - baseline) / (1 - baseline), 0 for guessing and 1 for perfect."
    ]
    if result["absent"]:
        said.append(
            f"Not asked: {', '.join(result['absent'])}. A mean over other tasks is another quantity, which is why it "
            "has another name."
        )
    return [
        doc.Heading(result["name"]),
        doc.Paragraph(" ".join(said), tone="finding"),
        doc.Table(header, rows, text_columns=(0, 6)),
    ]


def details_section(evaluations: Sequence[Evaluation]) -> list[doc.Block]:
    """The figures of sampled, scored and rotated evaluations besides accuracy."""
    parts: tuple[Callable[[Evaluation], list[doc.Block]], ...] = (_sampled, _scored, _rotated)
    return [block for e in evaluations for part in parts for block in part(e)]


def _sampled(e: Evaluation) -> list[doc.Block]:
    f = e["figures"]
    pass_at, majority_at = f.get("pass_at"), f.get("majority_at")
    if pass_at is None or majority_at is None:
        return []
    rows: list[tuple[str, ...]] = []
    for k, found in pass_at.items():
        voted = majority_at.get(k)
        votes = (rate(voted["value"], voted["lo"], voted["hi"]), percent(voted["guess"])) if voted else ("-", "-")
        rows.append((k, rate(found["value"], found["lo"], found["hi"]), percent(found["guess"]), *votes))
    caption = (
        f"{f.get('samples', 0)} samples of each question at temperature {e['settings'].get('temperature')}. pass@k is "
        "the chance that one of k samples is right, majority@k the chance that the commonest of k answers is."
    )
    header = ("k", "pass@k", "by guessing", "majority@k", "by guessing")
    return [doc.Heading(f"{e['name']}: several samples"), doc.Table(header, tuple(rows), caption=caption)]


def _scored(e: Evaluation) -> list[doc.Block]:
    found = e["figures"].get("calibration")
    if found is None:
        return []
    return [
        doc.Heading(f"{e['name']}: calibration"),
        doc.Paragraph(_calibration_text(e["figures"], found)),
        _reliability_table(found),
    ]


def _calibration_text(f: Figures, c: Calibration) -> str:
    shown = "is above" if c["ece"] > c["ece_if_calibrated_95"] else "is within"
    text = (
        f"Brier score {c['brier']:.3f}, log loss {c['log_loss']:.3f} nats. The calibration error of {c['ece']:.3f} "
        f"{shown} what right confidences would show on so few questions ({c['ece_if_calibrated']:.3f} on average, "
        f"{c['ece_if_calibrated_95']:.3f} in 95% of cases at most). The best choice leads the second by "
        f"{f.get('margin', 0.0):.2f} nats, and the right one leads the best other by {f.get('gold_margin', 0.0):+.2f}."
    )
    if "letter_mass" in f:
        text += f" {percent(f['letter_mass'])} of the next token's probability is on the letters."
    return text


def _reliability_table(c: Calibration) -> doc.Table:
    rows = tuple(
        (f"{b['n']:,}", percent(b["confidence"]), percent(b["accuracy"]), bounds(b["lo"], b["hi"]))
        for b in c["reliability"]
    )
    caption = "Questions in bins of as many each, from the least confident to the most."
    return doc.Table(("Questions", "Confidence", "Accuracy", "95% CI"), rows, text_columns=(), caption=caption)


def _rotated(e: Evaluation) -> list[doc.Block]:
    r = e["figures"].get("rotation")
    if r is None:
        return []
    rows = tuple(
        (ascii_uppercase[p["place"]], f"{p['n']:,}", percent(p["accuracy"]), bounds(p["lo"], p["hi"]))
        for p in r["by_place"]
    )
    table = doc.Table(("Right option at", "Answers", "Accuracy", "95% CI"), rows, caption=_bias_text(r))
    return [doc.Heading(f"{e['name']}: order of the options"), doc.Paragraph(_rotation_text(r)), table]


def _rotation_text(r: Rotation) -> str:
    kept = f" {r['kept']:,} more keep their order, because their options refer to each other." if r["kept"] else ""
    alike = r["consistency"]
    same = f" {rate(alike['value'], alike['lo'], alike['hi'])} got the same option in every order." if alike else ""
    d, verdict = r["difference"], ORDERS[r["difference_verdict"]]
    return (
        f"{r['rotated']:,} questions were asked in every cyclic order of their options.{kept}{same} Over all orders "
        f"the accuracy is {100 * d['value']:+z.1f} points from that in the first order, 95% CI "
        f"{bounds(d['lo'], d['hi'], '+')}, permutation test {p_text(r['difference_p'], 'p')}: {verdict}."
    )


def _bias_text(r: Rotation) -> str:
    return " ".join(
        f"Places of {n} options answered {', '.join(f'{count:,}' for count in b['counts'])} times: chi-square "
        f"{b['chi2']:.1f}, Cramér's V {b['cramers_v']:.2f} (0: evenly, 1: always one place), {p_text(b['p'], 'p')} by "
        "a permutation test of whole questions. Accuracy by place of the right option: Cochran's Q "
        f"{b['cochran_q']:.1f}, {p_text(b['cochran_p'], 'p')}."
        for n, b in r["bias"].items()
    )
