"""Settings of the part of an eval report that looks inside a checkpoint."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aquarat_core.config.fields import StrictModel


class InterpretConfig(StrictModel):
    """The analysis of a checkpoint's attention, logit lens and induction heads."""

    questions: Annotated[int, Field(ge=1, le=4096)] = 32
    """Number of questions to analyze, drawn from those that are asked."""
    maps: Annotated[int, Field(ge=0, le=16)] = 2
    """Number of these questions for which every head's attention is stored token by token."""
    sequences: Annotated[int, Field(ge=1, le=256)] = 8
    """Number of random token sequences, each repeated once, that are used to find heads that copy."""
    repeated_tokens: Annotated[int, Field(ge=4, le=1024)] = 64
    """Random tokens in such a sequence; fewer if twice as many do not fit into the context."""
    seed: int = 40
    """Decides which questions and which random tokens."""
    of: tuple[str, ...] = ()
    """The phases whose checkpoints are analyzed, e.g. [sft, rl]; empty for all."""
