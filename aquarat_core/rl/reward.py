"""Rewards beyond a completion's grade: a bonus for form, a length penalty, and changes within a run. All of it is off
by default.

The grade itself comes from the task, so that reward and evaluation parse answers in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aquarat_core.config import RewardConfig
from aquarat_core.tasks.task import A, Example, Grade, Reward


class RewardSchedule:
    """The reward that each step of a run pays, counted from 0. It is the same on all ranks and after a resume."""

    def __init__(self, config: RewardConfig, steps: int) -> None:
        self.config, self.steps = config, steps
        self.exact_from = config.steps_of_kind(steps)
        """The first step that is paid exactly instead of by `kind`; the number of steps if there is none."""
        self.bonus_steps: int | None = None
        """Number of steps that paid the bonus for form, once it has ended."""

    @property
    def changes(self) -> bool:
        """Whether later steps are rewarded by another rule than the first. Control rewards never change."""
        config = self.config
        return config.control == "none" and (config.exact_after is not None or config.format_bonus_until is not None)

    def kind(self, step: int) -> str:
        """The kind of reward that `step` pays."""
        return self.config.kind if step < self.exact_from else "answer"

    def bonus(self, step: int) -> float:
        """The bonus for form that `step` pays, given the parse rates of the steps before it."""
        ended = self.bonus_steps is not None and step >= self.bonus_steps
        return 0.0 if ended else self.config.format_bonus

    def after_step(self, step: int, parse_rate: float) -> list[str]:
        """Takes note of the parse rate of `step`, over all ranks; returns a sentence for each change after it."""
        news: list[str] = []
        if step + 1 == self.exact_from < self.steps:
            news.append(
                "the reward is exact from here on (rl_checkpoint.reward.exact_after): rl/mean_reward does not compare "
                "with that of the steps before, rl/acc does"
            )
        until = self.config.format_bonus_until
        if until is not None and self.bonus_steps is None and parse_rate > until:
            self.bonus_steps = step + 1
            news.append(
                f"{parse_rate:.1%} of the completions were well-formed, more than {until:.1%}: from here on no bonus "
                "is paid for that (rl_checkpoint.reward.format_bonus_until)"
            )
        return news

    def metrics(self, step: int, mean_reward: float) -> dict[str, float]:
        """The metrics that show the changes at `step`, whose completions earned `mean_reward`; none without changes."""
        found: dict[str, float] = {}
        if step >= self.exact_from:
            found["rl/exact_reward"] = mean_reward
        if self.config.format_bonus_until is not None:
            found["rl/format_bonus"] = self.bonus(step)
        return found

    def summary(self) -> dict[str, int]:
        """How many steps were paid by `kind`, and how many paid the bonus, as far as the config changes these."""
        if not self.changes:
            return {}
        found: dict[str, int] = {}
        if self.config.exact_after is not None:
            found["steps_before_exact_reward"] = self.exact_from
        if self.config.format_bonus_until is not None:
            found["steps_with_format_bonus"] = self.steps if self.bonus_steps is None else self.bonus_steps
        return found

    def state_dict(self) -> dict[str, Any]:
        """What later steps depend on, as JSON values."""
        return {"bonus_steps": self.bonus_steps}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Continue from the result of `state_dict`."""
        self.bonus_steps = state_dict["bonus_steps"]


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
