"""The teacher of self-distillation: the policy itself, or an average of its weights, shown the worked solution."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from aquarat_core.config import DistillationConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.objective.distillation import Targets, targets
from aquarat_core.rl.scoring import SampleBatch, completion_distribution


class Teacher:
    """Teaches `policy`; no gradient reaches it."""

    def __init__(self, policy: Transformer, config: DistillationConfig, temperature: float) -> None:
        self.config, self.temperature = config, temperature
        self.averages = config.teacher == "average"
        """Whether it has weights of its own, which are part of a run's state."""
        self.model = copy.deepcopy(policy).requires_grad_(False) if self.averages else policy

    @torch.no_grad()
    def targets(self, batch: SampleBatch) -> Targets:
        """Its distribution in the place of each completion token of `batch`, which has the teacher's prompts."""
        return targets(completion_distribution(self.model, batch, self.temperature), self.config.top_k)

    @torch.no_grad()
    def follow(self, policy: Transformer) -> None:
        """Move an average towards the updated policy. Ranks have the same policy, and so the same average."""
        if self.averages:
            for mine, theirs in zip(self.model.parameters(), policy.parameters(), strict=True):
                mine.lerp_(theirs, 1 - self.config.average_decay)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights; nothing if the policy itself teaches."""
        return self.model.state_dict() if self.averages else {}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Continue from the result of `state_dict`."""
        if self.averages:
            self.model.load_state_dict(state_dict)
