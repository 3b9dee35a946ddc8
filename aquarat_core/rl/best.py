"""The best policy of a run: the one that answered most held-out questions, wherever training went from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class BestPolicy:
    """Keeps the weights of the evaluation with the highest accuracy in the host's memory; of equals, the latest.

    They are part of every checkpoint of the run, so a restart forgets nothing, and old checkpoints may go.
    """

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy
        self.step: int | None = None
        """Steps done when it was evaluated; None before the first evaluation."""
        self.accuracy = 0.0
        self._weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def watch(self, step: int, accuracy: float) -> None:
        """The policy as it is now has this held-out accuracy."""
        if self.step is None or accuracy >= self.accuracy:
            self.step, self.accuracy = step, accuracy
            self._weights = {name: p.to("cpu", copy=True) for name, p in self.policy.named_parameters()}

    def restore(self) -> None:
        """Give the policy the weights that were kept. Raises `KeyError` before the first evaluation."""
        with torch.no_grad():
            for name, p in self.policy.named_parameters():
                p.copy_(self._weights[name])

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "accuracy": self.accuracy, "weights": self._weights}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.step, self.accuracy = state_dict["step"], state_dict["accuracy"]
        self._weights = dict(state_dict["weights"])
