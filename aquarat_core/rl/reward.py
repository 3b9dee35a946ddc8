"""Additions to a completion's grade, off by default: a bonus for the answer format and a length penalty.

The grade itself comes from the task, so that reward and evaluation parse answers in the same way.
"""

from __future__ import annotations

from dataclasses import replace

from aquarat_core.tasks.task import A, Example, Grade, Reward


def with_format_bonus(reward: Reward[A], bonus: float) -> Reward[A]:
    """`reward` plus `bonus` for an answer in the requested form, right or wrong."""
    if not bonus:
        return reward

    def paid(example: Example[A], completion: str, ended: bool) -> Grade:
        grade = reward(example, completion, ended)
        return grade if grade.answer is None else replace(grade, reward=grade.reward + bonus)

    return paid


def overlong_penalty(n_tokens: int, budget: int, buffer: int) -> float:
    """From 0 for completions that leave at least `buffer` tokens of the budget to -1 for those that use it up (soft
    overlong punishment, DAPO, Yu et al. 2025, arXiv 2503.14476)."""
    return min(0.0, (budget - buffer - n_tokens) / buffer) if buffer else 0.0
