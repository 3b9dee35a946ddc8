"""CORE: how it is measured, and where its questions are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aquarat_core.config.fields import MAX_COUNT, StrictModel

Phase = Literal["base", "mid", "sft", "rl"]
PHASES: tuple[Phase, ...] = ("base", "mid", "sft", "rl")
MAX_CORE_SHOTS = 10
"""Examples before a question, in the task of CORE that has most."""


class CoreConfig(StrictModel):
    """CORE, the mean over 22 tasks of the accuracy above guessing, from the questions of `eval_bundle`."""

    of: tuple[Phase, ...] = PHASES
    """Whose checkpoints it is measured of."""
    limit: Annotated[int, Field(gt=MAX_CORE_SHOTS, le=MAX_COUNT)] | None = None
    """Questions of each task; null asks all. The examples before a question are drawn from these, so figures with
    different limits do not compare, and the limit is part of a figure's name."""
    too_long: Literal["extend", "crop"] | None = None
    """What becomes of prompts longer than the model's context: `extend` reads them in full, beyond the positions of
    training; `crop` drops their beginning. null extends, except for models with a `window_pattern` of short windows."""
