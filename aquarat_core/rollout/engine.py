"""The one generation engine of RL, evaluation and chat: many prompts times many samples in one batch.

The engine computes with its own copy of the weights in the compute type, refreshed after each update, and keeps its
key and value memory from one call to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from aquarat_core.errors import UsageError
from aquarat_core.model.kv_cache import KVCache
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.batch import Batch, Completion, Request
from aquarat_core.rollout.replay import CudaGraphs, Recorder, Replays
from aquarat_core.rollout.rows import Rows
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.tools import Tool
from aquarat_core.runtime.preemption import Abandoned, Stop, never

LOOK_EVERY = 8
"""Tokens between two looks of the host at which rows have ended."""
FEW_ROWS = 32
"""Up to here a CPU is faster with keys and values in float32: reading them takes less than calling oneDNN."""


class Engine:
    """Generates from one model until `stop_token` or the token budget.

    Steps are recorded and replayed by `recorder`; without one, by CUDA graphs on a GPU and not at all on a CPU.
    """

    def __init__(self, model: Transformer, stop_token: int, recorder: Recorder | None = None) -> None:
        self.stop_token = stop_token
        if recorder is None and model.cos.is_cuda:
            recorder = CudaGraphs()
        self.recorder = recorder
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        # Only the matrices: embeddings are looked up, not multiplied, and stay as exact as the trainer's.
        for module in self.model.modules():
            if isinstance(module, nn.Linear):
                module.to(model.compute_dtype)
        self._replays: Replays | None = None

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
        stop: Stop = never,
        tell: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """Completions of each prompt, one for each of its keys (int64 seeds), `max_rows` at a time.

        What a completion draws depends on its key alone, not on what else is in the batch. Raises `UsageError` when a
        prompt and the budget do not fit the model's sequence length, and `Abandoned` once `stop` is true, which is
        asked every few tokens; then `tell`, if there is one, is told how many completions have ended.
        """
        self._check_lengths(prompts, max_new_tokens)
        requests, n = [], 0
        for prompt, row_keys in zip(prompts, keys, strict=True):
            requests.append(Request(prompt, row_keys, n))
            n += len(row_keys)
        # Neighbours in length are read together: they need the least padding.
        ordered = sorted(requests, key=lambda request: len(request.prompt))
        replays = self._replays_for(requests, min(max_rows, n), max_new_tokens)
        batch = Batch(replays, ordered, max_new_tokens, Sampling(temperature, top_k, top_p), tool)
        while left := batch.look():
            if stop():
                raise Abandoned("sampling was given up")
            if tell:
                tell(len(batch.found))
            for _ in range(min(1 if tool else LOOK_EVERY, left)):
                batch.step()
        return [[batch.found[r.first + i] for i in range(len(r.keys))] for r in requests]

    def _check_lengths(self, prompts: Sequence[Sequence[int]], budget: int) -> None:
        longest, room = max(map(len, prompts), default=0), self.model.config.sequence_len
        if longest + budget > room:
            raise UsageError(
                f"a prompt of {longest} tokens and {budget} new ones do not fit the model's sequence_len of "
                f"{room}: lower max_new_tokens or train with longer sequences"
            )

    def _replays_for(self, requests: Sequence[Request], rows: int, budget: int) -> Replays:
        """Rows in memory of at least this size: the last ones, if that is large enough.

        Twice as many prompts fit as full groups need rows for: a prompt keeps its place while one of its rows goes on.
        """
        slots = max((len(request.keys) for request in requests), default=1)
        prompts = min(len(requests), max(2, 2 * rows // slots))
        prompt_len = max((len(request.prompt) for request in requests), default=1)
        size = (prompts, prompt_len, slots, rows, budget)
        if self._replays is None or not self._replays.rows.kv_cache.fits(*size):
            if self._replays is not None and self._replays.failed:
                self.recorder = None
            self._replays = None  # its memory is free before the next is taken
            device, dtype = self.model.cos.device, self.model.compute_dtype
            if device.type == "cpu" and rows <= FEW_ROWS:
                dtype = torch.float32
            kv_cache = KVCache(self.model.config, *size, dtype, device)
            self._replays = Replays(Rows(self.model, kv_cache, self.stop_token), self.recorder)
        return self._replays
