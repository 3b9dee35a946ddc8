"""What a completion earns: 1 for the right letter said once, at the end, with the stop token; otherwise 0.

The reward and the evaluation read answers with the same parser. Extras are off by default: a bonus for form alone,
and a price of length.
"""

from __future__ import annotations

from dataclasses import dataclass

from aquarat_core.tasks.choice import count_markers, parse_answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one completion was judged."""

    letter: str | None
    """The well-formed answer, if there is one."""
    reward: float
    ambiguous: bool = False
    """More than one answer was announced."""


def judge(text: str, ended: bool, correct: str, format_bonus: float = 0.0) -> Verdict:
    """Judge the text of a completion without its stop token; a completion cut off by the budget earns nothing.

    `format_bonus` is paid for a well-formed answer, right or wrong.
    """
    letter = parse_answer(text) if ended else None
    reward = float(letter == correct) + (format_bonus if letter else 0.0)
    return Verdict(letter, reward, count_markers(text) > 1)


def overlong_penalty(n_tokens: int, budget: int, buffer: int) -> float:
    """From 0 for completions that leave `buffer` tokens of the budget to -1 for those that use it up (soft overlong
    punishment, DAPO, Yu et al. 2025, arXiv 2503.14476)."""
    return min(0.0, (budget - buffer - n_tokens) / buffer) if buffer else 0.0
