"""Samples from the model while it trains, for people to read: in `samples.jsonl`, in W&B and in the log.

A line of text shows much that a falling loss hides. Tokens are drawn with keys from (step, prompt), so no random
generator of the training advances, and a resumed run gives the same samples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aquarat_core.config import SamplesConfig
from aquarat_core.conversation import user_message
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key
from aquarat_core.tasks.task import Example
from aquarat_core.text.chat import render_prompt, stop_tokens
from aquarat_core.text.tokenizer import Tokenizer
from aquarat_core.tracking.context import RunContext
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.tracking.sample_table import SampleTable
from aquarat_core.training.callbacks import Callback, TrainingStep

COLUMNS = ("step", "prompt", "text", "tokens", "ended")
QUESTIONS = 2
"""Number of validation questions that a chat stage asks, in addition to its config's prompts."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as shown to readers, and as tokens for the model."""

    text: str
    ids: list[int]


def text_prompts(texts: Sequence[str], tokenizer: Tokenizer) -> list[Prompt]:
    """Beginnings of documents, for a model of plain text."""
    return [Prompt(text, [tokenizer.special("<|bos|>"), *tokenizer.encode(text)]) for text in texts]


def chat_prompts(texts: Sequence[str], examples: Sequence[Example[Any]], tokenizer: Tokenizer) -> list[Prompt]:
    """The user's messages, then the first examples."""
    asked = [(text, [user_message(text)]) for text in texts]
    asked += [(e.prompt, list(e.messages)) for e in examples[:QUESTIONS]]
    return [Prompt(text, render_prompt(tokenizer, messages)) for text, messages in asked]


@dataclass
class Samples(Callback):
    """Continues the prompts every `config.every` steps and after the last one, on rank 0.

    Prompts that leave no room for an answer are left out.
    """

    name = "samples"
    config: SamplesConfig
    model: Transformer
    tokenizer: Tokenizer
    prompts: Sequence[Prompt]
    log: MetricLog
    ctx: RunContext
    table: SampleTable = field(init=False)

    def __post_init__(self) -> None:
        self.table = SampleTable(self.ctx, self.log, "samples", COLUMNS)

    def after_step(self, step: TrainingStep) -> None:
        if self.ctx.rank or not step.due(self.config.every):
            return
        started = time.monotonic()
        if rows := self._rows(step.done):
            self.table.add(step.done, rows)
            for row in rows:
                self.ctx.log(f"step {step.done}: {row['prompt']!r} -> {row['text']!r}")
            step.metrics["samples/ended"] = sum(row["ended"] for row in rows) / len(rows)
            step.metrics["samples/tokens_mean"] = sum(row["tokens"] for row in rows) / len(rows)
            step.metrics["time/samples"] = time.monotonic() - started

    def _rows(self, step: int) -> list[dict[str, Any]]:
        budget, config = self.config.max_new_tokens, self.config
        fitting = [p for p in self.prompts if len(p.ids) + budget <= self.model.config.sequence_len]
        if not fitting:
            return []
        engine = Engine(self.model, stop_tokens(self.tokenizer))
        keys = [[row_key("sample", step, i)] for i in range(len(fitting))]
        generated = engine.generate([p.ids for p in fitting], keys, budget, config.temperature)
        return [
            dict(zip(COLUMNS, (step, p.text, self.tokenizer.decode(c.content), len(c.tokens), c.ended), strict=True))
            for p, (c,) in zip(fitting, generated, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        return self.table.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.table.load_state_dict(state_dict)
