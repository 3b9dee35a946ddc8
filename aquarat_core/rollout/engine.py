"""The one generation engine of RL, evaluation and chat: many prompts times many samples in one batch.

The engine computes with its own copy of the weights in the compute type, refreshed after each update, and keeps its
key and value memory from one call to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from aquarat_core.model.kv_cache import KVMemory
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.batch import Batch, Request
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.tools import Tool

LOOK_EVERY = 8
"""Tokens between two looks of the host at which rows have ended."""
FEW_ROWS = 32
"""Up to here a CPU is faster with keys and values in float32: reading them takes less than calling oneDNN."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation; the stop token, when it came, is the last of `tokens`."""

    tokens: list[int]
    logprobs: list[float]
    """Of each token, in the distribution that it was drawn from."""
    ended: bool
    """True when the stop token was sampled, False when the row ran out of tokens."""
    given: tuple[int, ...] = ()
    """Places of tokens that a tool said; their log-probability is 0, and they are not the model's to learn."""

    @property
    def said(self) -> list[int]:
        """The tokens without the stop token."""
        return self.tokens[:-1] if self.ended else self.tokens


class Engine:
    """Generates from one model until `stop_token` or the token budget."""

    def __init__(self, model: Transformer, stop_token: int) -> None:
        self.stop_token = stop_token
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        # Only the matrices: embeddings are looked up, not multiplied, and stay as exact as the trainer's.
        for module in self.model.modules():
            if isinstance(module, nn.Linear):
                module.to(model.compute_dtype)
        self._memory: KVMemory | None = None

    @torch.no_grad()
    def refresh(self, model: Transformer) -> None:
        """Take over the weights of `model`."""
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        max_rows: int = 1024,
        top_k: int | None = None,
        top_p: float | None = None,
        tool: Tool | None = None,
    ) -> list[list[Completion]]:
        """Completions of each prompt, one for each of its keys (int64 seeds), `max_rows` at a time.

        What a completion draws depends on its key alone, not on what else is in the batch. Raises `ValueError` when a
        prompt and the budget do not fit the model's sequence length.
        """
        self._check_lengths(prompts, max_new_tokens)
        requests, n = [], 0
        for prompt, row_keys in zip(prompts, keys, strict=True):
            requests.append(Request(prompt, row_keys, n))
            n += len(row_keys)
        # Neighbours in length are read together: they need the least padding.
        ordered = sorted(requests, key=lambda request: len(request.prompt))
        memory = self._memory_for(requests, min(max_rows, n), max_new_tokens)
        sampling = Sampling(temperature, top_k, top_p)
        batch = Batch(self.model, memory, ordered, max_new_tokens, sampling, self.stop_token, tool)
        while left := batch.look():
            for _ in range(min(1 if tool else LOOK_EVERY, left)):
                batch.step()
        rows = zip(*(x.tolist() for x in (batch.tokens_NS, batch.logp_NS, batch.lengths_N, batch.ended_N)), strict=True)
        found = [Completion(tokens[:n], logps[:n], ended) for tokens, logps, n, ended in rows]
        if tool:
            given = [tuple(i for i, was in enumerate(row) if was) for row in batch.given_NS.tolist()]
            found = [replace(completion, given=places) for completion, places in zip(found, given, strict=True)]
        return [found[r.first : r.first + len(r.keys)] for r in requests]

    def _check_lengths(self, prompts: Sequence[Sequence[int]], budget: int) -> None:
        longest, room = max(map(len, prompts), default=0), self.model.config.sequence_len
        if longest + budget > room:
            raise ValueError(
                f"a prompt of {longest} tokens and {budget} new ones do not fit the model's sequence_len of "
                f"{room}: lower max_new_tokens or train with longer sequences"
            )

    def _memory_for(self, requests: Sequence[Request], rows: int, budget: int) -> KVMemory:
        """Memory of at least this size: the last one, if it is large enough.

        Twice as many prompts fit as full groups need rows for: a prompt keeps its place while one of its rows goes on.
        """
        lanes = max((len(request.keys) for request in requests), default=1)
        prompts = min(len(requests), max(2, 2 * rows // lanes))
        prompt_len = max((len(request.prompt) for request in requests), default=1)
        size = (prompts, prompt_len, lanes, rows, budget)
        if self._memory is None or not self._memory.fits(*size):
            device, dtype = self.model.cos.device, self.model.compute_dtype
            if device.type == "cpu" and rows <= FEW_ROWS:
                dtype = torch.float32
            self._memory = KVMemory(self.model.config, *size, dtype, device)
        return self._memory
