"""Each stage of a chain against the one before: paired tests of all evaluations, corrected for their number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aquarat_core.config.protocols import CORE
from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation.comparing import Line, answers_of, correct, side_by_side
from aquarat_core.evaluation.report import ComparisonWithParent, Evaluated
from aquarat_core.evaluation.statistics import holm, p_text
from aquarat_core.evaluation.summary import corrected
from aquarat_core.evaluation.wording import bounds, comparison_sentence, rate

FINDINGS = {"above": "better", "below": "worse", "no difference shown": "no difference shown"}


def correct_comparisons(found: Sequence[tuple[str, ComparisonWithParent]]) -> list[float | None]:
    """P-values after Holm's correction for the number of comparisons that have a result, None for the others; verdicts
    and wordings are changed to them. `found` has the name of each later checkpoint, and its comparison."""
    results = [(name, c, result) for name, c in found if (result := c["result"])]
    adjusted = dict(zip((name for name, _, _ in results), holm([r["mcnemar_p"] for _, _, r in results]), strict=True))
    for name, c, result in results:
        c["result"] = corrected(result, (str(c["parent"]), name), adjusted[name], len(results))
    return [adjusted.get(name) for name, _ in found]


def other_lines(before: tuple[Evaluated, Mapping[str, Any]], now: tuple[Evaluated, Mapping[str, Any]]) -> list[Line]:
    """The paired comparisons of two reports but for their main evaluations and CORE's tasks, not yet corrected for
    those of other pairs. Each report comes with the config of its manifest."""
    first, second = ([a for a in answers_of(*side)[1:] if a.protocol != CORE] for side in (before, now))
    return side_by_side(first, second)["lines"]


def correct_lines(lines: Iterable[Line]) -> None:
    """Corrects the comparisons of all pairs for their number."""
    if everything := list(lines):
        correct(everything)


def paired_table(rows: Sequence[tuple[str, ComparisonWithParent, float | None]]) -> doc.Table:
    """The main evaluation: each later checkpoint, its comparison and the corrected p-value."""
    tests = sum(p is not None for _, _, p in rows)
    cells: list[tuple[str, ...]] = []
    for name, c, p in rows:
        pair = f"{name} against {c['parent']}"
        if (r := c["result"]) and p is not None:
            span = bounds(r["difference_lo"], r["difference_hi"], "+")
            flips = f"{r['only_child']:,} / {r['only_parent']:,}"
            difference = f"{100 * r['difference']:+.1f}"
            cells.append((pair, difference, span, flips, p_text(r["mcnemar_p"]), p_text(p), r["verdict"]))
        else:
            cells.append((pair, "-", "-", "-", "-", "-", comparison_sentence(c)))
    header = (
        "Pair", "Points", "95% CI", "Only later / only earlier right", "Exact McNemar p", "p, Holm", "Later stage is",
    )  # fmt: skip
    caption = f"p is corrected for the {tests} tests of this table; what the later stage is follows from that."
    return doc.Table(header, tuple(cells), text_columns=(0, 6), caption=caption if tests > 1 else "")


def lines_section(rows: Sequence[tuple[str, str, Sequence[Line]]]) -> list[doc.Block]:
    """All other evaluations: the two checkpoints of each pair, the earlier one first, and their lines; nothing without
    lines."""
    count = sum(len(lines) for _, _, lines in rows)
    if not count:
        return []
    cells = [
        (
            line["name"],
            f"{second} against {first}",
            f"{line['n']:,}",
            *(rate(side["accuracy"], side["lo"], side["hi"]) for side in (line["first"], line["second"])),
            f"{100 * line['difference']:+.1f} {bounds(line['difference_lo'], line['difference_hi'], '+')}",
            line["test"],
            p_text(line["p"]),
            p_text(line["p_corrected"]),
            FINDINGS[line["verdict"]],
        )
        for first, second, lines in rows
        for line in lines
    ]
    header = (
        "Task / protocol", "Pair", "Questions", "Earlier", "Later", "Points", "Test", "p", "p, Holm", "Later stage is",
    )  # fmt: skip
    tests = f"{count} test{'' if count == 1 else 's'}"
    caption = (
        f"The evaluations besides the main one, on the same questions. p is corrected for the {tests} of this table; "
        "where a question has several answers, its mean is compared."
    )
    heading = doc.Heading("Each stage against the one before, by evaluation")
    return [heading, doc.Table(header, tuple(cells), text_columns=(0, 1, 6, 9), caption=caption)]
