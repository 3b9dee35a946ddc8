"""Answers in full: for each evaluation up to ten right and ten wrong ones, drawn at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation.records import Record

N_EACH = 10


def examples_section(records: Mapping[str, Sequence[Record]], seed: int) -> list[doc.Block]:
    """The main evaluation's answers, and those of the others folded away. The same `seed` draws the same answers."""
    blocks: list[doc.Block] = []
    for place, (name, rows) in enumerate(records.items()):
        chosen = {what: _drawn([r for r in rows if r.correct == right], seed) for what, right in _KINDS.items()}
        counts = " and ".join(f"{len(found)} {what}" for what, found in chosen.items())
        samples = tuple(_sample(r) for found in chosen.values() for r in found)
        if not place:
            blocks += [doc.Heading(f"{counts} answers, drawn at random"), *samples]
        elif samples:
            blocks.append(doc.Details(f"{name}: {counts} answers, drawn at random", samples))
    return blocks


_KINDS = {"right": True, "wrong": False}


def _drawn(rows: Sequence[Record], seed: int) -> list[Record]:
    in_order = sorted(rows, key=lambda r: (r.id, r.sample))
    return random.Random(seed).sample(in_order, min(N_EACH, len(in_order)))


def _sample(r: Record) -> doc.Sample:
    tokens = f", {r.n_tokens} tokens" if r.stop_reason != "scored" else ""
    number = f", answer {r.sample}" if r.sample else ""
    return doc.Sample(
        title=f"{r.id}{number}: right is {r.gold}, answered {r.parsed or 'nothing that parses'}{tokens}",
        verdict="right" if r.correct else "wrong" if r.parsed else "no answer",
        question=r.question,
        completion=r.completion if r.choice_scores is None else "\n".join(filter(None, [r.completion, _scores(r)])),
        evaluation=r.evaluation,
        id=r.id,
        sample=r.sample,
    )


def _scores(r: Record) -> str:
    """The scores of the choices, one per line."""
    scores = zip(ascii_uppercase, r.choice_scores or (), strict=False)
    return "\n".join(f"{letter}  {score:8.3f}" for letter, score in scores)
