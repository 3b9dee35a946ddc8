"""Keeps the best policy of a run by held-out accuracy, even if training gets worse after it.

With a few hundred questions, accuracy is only precise to a few points, and the highest of several evaluations is biased
upward by selection. So the latest policy within one standard error of the highest accuracy counts as the best (the
one-standard-error rule, Breiman et al. 1984, "Classification and Regression Trees").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aquarat_core.training.callbacks import Callback, TrainingStep


class BestPolicy(Callback):
    """Keeps the best policy's weights in host memory; accuracies are measured on `n` questions.

    They are part of every checkpoint, so a restart loses nothing, and old checkpoints can be removed.
    """

    name = "best"

    def __init__(self, policy: nn.Module, n: int) -> None:
        self.policy, self.n = policy, n
        self.step: int | None = None
        """Steps done when the best policy was evaluated; None before the first evaluation."""
        self.accuracy = 0.0
        """Held-out accuracy of the best policy."""
        self.highest = 0.0
        self._weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def watch(self, step: int, accuracy: float) -> None:
        """Keep the current policy if this held-out accuracy makes it the best."""
        self.highest = max(self.highest, accuracy)
        error = math.sqrt(self.highest * (1 - self.highest) / self.n)
        if self.step is None or accuracy >= self.highest - error:
            self.step, self.accuracy = step, accuracy
            self._weights = {name: p.to("cpu", copy=True) for name, p in self.policy.named_parameters()}

    def before_training(self, step: TrainingStep) -> None:
        self.after_step(step)

    def after_step(self, step: TrainingStep) -> None:
        """Check the step's held-out accuracy, if it was evaluated."""
        if "eval/accuracy" in step.metrics:
            self.watch(step.done, step.metrics["eval/accuracy"])

    def restore(self) -> None:
        """Load the kept weights into the policy. Raises `KeyError` before the first evaluation."""
        with torch.no_grad():
            for name, p in self.policy.named_parameters():
                p.copy_(self._weights[name])

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "accuracy": self.accuracy, "highest": self.highest, "weights": self._weights}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.step, self.accuracy, self.highest = (state_dict[name] for name in ("step", "accuracy", "highest"))
        self._weights = dict(state_dict["weights"])
