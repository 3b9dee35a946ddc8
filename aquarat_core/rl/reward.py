"""What a completion earns beside its grade; both extras are off by default.

The grade is the task's own: reward and evaluation read answers in the same way.
"""

from __future__ import annotations

from dataclasses import replace

from aquarat_core.tasks.task import A, Example, Grade, Reward


def with_format_bonus(reward: Reward[A], bonus: float) -> Reward[A]:
    """`reward` that also pays `bonus` for an answer in the form that was asked for, right or wrong."""
    if not bonus:
        return reward

    def paid(example: Example[A], completion: str, ended: bool) -> Grade:
        grade = reward(example, completion, ended)
        return grade if grade.answer is None else replace(grade, reward=grade.reward + bonus)

    return paid


def overlong_penalty(n_tokens: int, budget: int, buffer: int) -> float:
    """From 0 for completions that leave `buffer` tokens of the budget to -1 for those that use it up (soft overlong
    punishment, DAPO, Yu et al. 2025, arXiv 2503.14476)."""
    return min(0.0, (budget - buffer - n_tokens) / buffer) if buffer else 0.0
