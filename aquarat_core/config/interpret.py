"""What an eval report looks at inside a checkpoint."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aquarat_core.config.fields import StrictModel


class InterpretConfig(StrictModel):
    """What is looked at inside a checkpoint: attention, the logit lens, induction."""

    questions: Annotated[int, Field(ge=1, le=4096)] = 32
    """Questions looked at, drawn from those that are asked."""
    maps: Annotated[int, Field(ge=0, le=16)] = 2
    """For how many of them every head's attention is stored token by token."""
    sequences: Annotated[int, Field(ge=1, le=256)] = 8
    """Sequences of random tokens, each said twice, in which heads that copy are searched."""
    repeated_tokens: Annotated[int, Field(ge=4, le=1024)] = 64
    """Random tokens in such a sequence, as far as twice as many fit the context."""
    seed: int = 40
    """Decides which questions and which random tokens."""
    of: tuple[str, ...] = ()
    """The phases whose checkpoints are looked into, e.g. [sft, rl]; empty for all."""

    def is_for(self, phase: str) -> bool:
        """Whether the checkpoint of `phase` is looked into."""
        return not self.of or phase in self.of
