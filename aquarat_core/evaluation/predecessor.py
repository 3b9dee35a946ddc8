"""Compares an eval report with the previous report of the same asset: accuracy, and the share of readable answers."""

from __future__ import annotations

from dataclasses import dataclass

from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.report import Evaluated, protocol_difference
from aquarat_core.evaluation.statistics import wilson_interval
from aquarat_core.evaluation.summary import Comparison, compare, question_difference
from aquarat_core.evaluation.wording import rate

COLLAPSED = 0.5
"""A parse rate has collapsed if it is at most this share of the previous one, and the drop is beyond noise."""


@dataclass(frozen=True, slots=True)
class ParseRate:
    """The share of `n` answers that the task can read."""

    rate: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% Wilson interval."""
        return wilson_interval(round(self.rate * self.n), self.n)

    def __str__(self) -> str:
        return f"{rate(self.rate, *self.interval)} of {self.n:,}"


def compare_with_last(now: Evaluated, last: Evaluated) -> Comparison | str:
    """The paired comparison with the previous report, or a text that says how questions or settings differ."""
    reason = protocol_difference(now.report["evaluation"], last.report["evaluation"]) or question_difference(
        last.records, now.records
    )
    return reason or compare(last.records, now.records, ("the previous report", "this report"))


def parse_collapse(now: ParseRate, last: ParseRate | None, trained: bool) -> str | None:
    """A sentence that explains why the parse rate has collapsed, or None if it has not.

    It has collapsed in two cases:

    - No answer can be read, although the checkpoint was `trained` on answers to the task. A base model has never seen
      such an answer, so its parse rate of zero is expected.
    - The rate is at most half (`COLLAPSED`) of the previous one, and the two 95% Wilson intervals do not overlap. This
      holds for every checkpoint.
    """
    if last and now.rate <= COLLAPSED * last.rate and now.interval[1] < last.interval[0]:
        lost = "the model has lost the answer format"
        return f"Only {now} answers can be read, after {last} in the previous report: {lost}."
    if trained and now.rate == 0:
        return (
            f"None of {now.n:,} answers can be read, although the model was trained on this task: it has not learned "
            "the answer format, or eval_report.max_new_tokens cuts the answers off."
        )
    return None


def since_last(now: Evaluated, last: Evaluated | None) -> list[doc.Block]:
    """The section on what changed since the previous report of the same asset; nothing if there is none."""
    if last is None:
        return []
    was, is_now = (r.report["checkpoint"] for r in (last, now))
    same = was["data_version"] == is_now["data_version"]
    on = "the same checkpoint" if same else f"another {was['asset']} ({was['data_version'][:12]})"
    found = compare_with_last(now, last)
    verdict = found["wording"] if not isinstance(found, str) else f"Their accuracies cannot be compared: {found}."
    before = {e["name"]: e for e in last.report.get("evaluations", [])}
    rows = [(e["name"], before[e["name"]], e) for e in now.report["evaluations"] if e["name"] in before]
    table = doc.Table(
        ("Task / protocol", "Previous report", "This report", "Same questions"),
        tuple((name, _accuracy(old), _accuracy(new), _same_questions(old, new)) for name, old, new in rows),
        text_columns=(0, 3),
    )
    return [
        doc.Heading("Since the previous report"),
        doc.Paragraph(f"The previous report of this asset was on {on}. {verdict}"),
        *([table] if len(rows) > 1 else []),
    ]


def _accuracy(e: Evaluation) -> str:
    return rate(e["figures"]["accuracy"], e["figures"]["lo"], e["figures"]["hi"])


def _same_questions(old: Evaluation, new: Evaluation) -> str:
    return "yes" if old["hashes"]["prompts_sha256"] == new["hashes"]["prompts_sha256"] else "no"
