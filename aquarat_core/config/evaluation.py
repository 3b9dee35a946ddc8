"""How checkpoints are evaluated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aquarat_core.config.fields import PositiveInt, StrictModel
from aquarat_core.config.tasks import MAIN_TASK, TaskDefinition
from aquarat_core.config.training import LaunchConfig


class EvalConfig(StrictModel):
    """How the four checkpoints are evaluated."""

    launch: LaunchConfig = LaunchConfig()
    task: str = MAIN_TASK
    """The task whose questions are asked; `task` is the profile's own."""
    definitions: dict[str, TaskDefinition] = Field(default_factory=dict[str, TaskDefinition])
    """What that task is; filled in from the profile's `tasks`."""
    split: Literal["validation", "test"] = "test"
    """Split of the questions that are asked."""
    limit: PositiveInt | None = None
    """Questions asked; null asks all."""
    permute_options: bool = True
    """Put each question's options in a seeded random order, so that no letter is favoured."""
    max_new_tokens: PositiveInt = 64
    """Tokens of an answer at most; an answer cut off counts as wrong."""
    calculator: bool = False
    """Answer the calls that the model makes of the calculator."""
    batch_rows: PositiveInt = 256
    """Answers that one process generates at a time."""
    bpb_tokens: PositiveInt = 65_536
    """Tokens of validation text scored for bits per byte (base and mid)."""
    seed: int = 30
    """Decides the order of the options."""
