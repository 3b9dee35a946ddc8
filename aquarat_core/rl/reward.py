"""What a completion earns: 1 for the right letter said once, at the end, with the stop token; otherwise 0."""

from __future__ import annotations

from dataclasses import dataclass

from aquarat_core.tasks.answers import parse_answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one completion was judged."""

    letter: str | None
    """The well-formed answer, if there is one."""
    reward: float


def judge(text: str, ended: bool, correct: str) -> Verdict:
    """Judge the text of a completion without its stop token; a completion cut off by the budget earns nothing."""
    letter = parse_answer(text) if ended else None
    return Verdict(letter, float(letter == correct))
