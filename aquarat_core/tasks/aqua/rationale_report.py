"""Normalizes the rationales of all splits, and shows people what was done: counts of every rule, and examples."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aquarat_core.tasks.aqua.cleaning import TRAIN
from aquarat_core.tasks.aqua.equations import with_calls
from aquarat_core.tasks.aqua.normalizing import RULES, normalize
from aquarat_core.tasks.aqua.question import Question

EXAMPLES, UNREACHED = 50, 20
"""Training rows that the page shows before and after, and of those that do not reach the right option."""
_REACHED = {"last_line": "reached_on_last_line", "earlier": "reached_earlier", "nowhere": "unreached"}
"""The counts of where rationales reach the right option."""
_MEANING = {
    "rows": "rationales",
    "changed": "changed by any rule",
    "reached_on_last_line": "the last line has the right option",
    "reached_earlier": "only an earlier line has it",
    "unreached": "no line has it",
    "dropped_unreached": "left out of training, because no line has it",
    "with_calls": "with calls of the calculator",
    "calls": "calls of the calculator",
}


@dataclass(slots=True)
class NormalizedRationales:
    """The splits with normalized rationales, and what was done to them."""

    splits: dict[str, list[Question]] = field(default_factory=dict[str, list[Question]])
    counts: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """By split, then by rule, in how many rationales it was used; and the counts that `_MEANING` explains."""
    unreached: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By split, the ids of the rows whose rationale does not reach the right option."""
    examples: list[tuple[Question, Question, tuple[str, ...]]] = field(
        default_factory=list[tuple[Question, Question, tuple[str, ...]]]
    )
    """Training rows that rules or calls changed, before and after, with the rules used."""
    left_out: list[Question] = field(default_factory=list[Question])
    """Training rows that do not reach the right option."""

    def changed_share(self, split: str) -> float:
        """Share of a split's rationales that rules changed."""
        counts = self.counts[split]
        return counts["changed"] / max(1, counts["rows"])

    def calls_share(self, split: str) -> float:
        """Share of a split's rationales that call the calculator."""
        counts = self.counts[split]
        return counts.get("with_calls", 0) / max(1, counts["rows"])

    def page(self) -> str:
        """Counts and examples as Markdown."""
        splits = list(self.counts)
        names = list(dict.fromkeys(name for counts in self.counts.values() for name in counts))
        lines = [
            "# Normalized rationales",
            "",
            f"| what | {' | '.join(splits)} |",
            f"| --- |{' ---: |' * len(splits)}",
            *(
                f"| {_MEANING.get(name, f'rule `{name}`')} | "
                f"{' | '.join(f'{self.counts[split].get(name, 0):,}' for split in splits)} |"
                for name in names
            ),
        ]
        lines += ["", f"## {len(self.examples)} changed training rows, drawn by a hash of their ids"]
        for before, after, rules in self.examples:
            said = [f"Rules: {', '.join(rules)}"] if rules else []
            said += [f"Calls: {calls}"] if (calls := _calls(after)) else []
            lines += [*_title(before), "; ".join(said), "", *_fenced(before.rationale)]
            lines += ["becomes", "", *_fenced(after.rationale)]
        lines += ["", f"## {len(self.left_out)} training rows that do not reach the right option"]
        for question in self.left_out:
            lines += [*_title(question), *_fenced(question.rationale)]
        return "\n".join(lines).rstrip() + "\n"


def normalize_rationales(
    splits: Mapping[str, Sequence[Question]], drop_unreached: bool, calculator_calls: bool = False
) -> NormalizedRationales:
    """Every split with its rationales in one form, and each question marked as `reached` or not.

    With `drop_unreached`, training loses the rows that do not reach the right option; other splits keep every row. With
    `calculator_calls`, the normalized rationales compute their exact equations with calls (`equations`).
    """
    found = NormalizedRationales()
    for split, questions in splits.items():
        none = dict.fromkeys(("changed", *RULES, *_REACHED.values()), 0)
        if calculator_calls:
            none |= {"with_calls": 0, "calls": 0}
        counts: Counter[str] = Counter({"rows": len(questions), **none})
        changed: list[tuple[Question, Question, tuple[str, ...]]] = []
        kept: list[Question] = []
        unreached: list[Question] = []
        for q in questions:
            normalized = normalize(q.rationale, q.options, q.gold)
            counts.update(normalized.rules)
            counts.update([_REACHED[normalized.reach]])
            after = replace(q, rationale=normalized.text, reached=normalized.reach != "nowhere")
            if calculator_calls:
                after = with_calls(after)
                counts.update({"with_calls": bool(after.rationale_parts), "calls": _calls(after)})
            counts["changed"] += bool(normalized.rules)
            if normalized.rules or after.rationale_parts:
                changed.append((q, after, normalized.rules))
            if not after.reached:
                unreached.append(after)
            if after.reached or not (drop_unreached and split == TRAIN):
                kept.append(after)
        if dropped := len(questions) - len(kept):
            counts["dropped_unreached"] = dropped
        found.splits[split], found.counts[split] = kept, dict(counts)
        found.unreached[split] = [q.id for q in unreached]
        if split == TRAIN:
            found.examples = sorted(changed, key=lambda row: _place(row[0]))[:EXAMPLES]
            found.left_out = sorted(unreached, key=_place)[:UNREACHED]
    return found


def _calls(question: Question) -> int:
    return sum(part["type"] == "call" for part in question.rationale_parts)


def _place(question: Question) -> bytes:
    return hashlib.blake2b(question.id.encode(), digest_size=16).digest()


def _title(question: Question) -> Iterable[str]:
    options = "; ".join(f"{letter}: {option}" for letter, option in zip("ABCDE", question.options, strict=False))
    return "", f"### {question.id}", "", *_fenced(f"{question.question}\n{options}\nright: {question.correct}")


def _fenced(text: str) -> Iterable[str]:
    """`text` as it is, in a fence that no line of it closes."""
    fence = "`" * 3
    while fence in text:
        fence += "`"
    return f"{fence}text", text, fence, ""
