"""A checkpoint that is asked: one copy of its weights generates, one scores, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from aquarat_core.evaluation.likelihood import Scorer
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.batch import Completion
from aquarat_core.rollout.engine import Engine
from aquarat_core.text.chat import stop_tokens
from aquarat_core.text.tokenizer import Tokenizer

Tell = Callable[[int], None]
"""Is called with the number of answers so far."""


class Subject:
    """A model with its tokenizer; `max_rows` answers are generated at a time."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, max_rows: int = 256) -> None:
        self.model, self.tokenizer, self.max_rows = model, tokenizer, max_rows
        self.said: dict[tuple[int, ...], Completion | None] = {}
        """Greedy completions by prompt, limit and calculator, for evaluations that need the same ones."""

    @property
    def sequence_len(self) -> int:
        return self.model.config.sequence_len

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.model, stop_tokens(self.tokenizer))

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.model)
