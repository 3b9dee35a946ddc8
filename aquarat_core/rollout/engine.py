"""The generation engine of RL, evaluation and chat: many prompts with many samples each, in one batch.

The engine has its own copy of the weights in the compute type, which is refreshed after each update, and reuses its KV
cache between calls.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch

from aquarat_core.errors import UsageError
from aquarat_core.model.kv_cache import KVCache
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.batch import PROMPT_ROOM, Batch, Completion, Drawn, Enough, Request
from aquarat_core.rollout.replay import CudaGraphs, GraphCapture, GraphRunner
from aquarat_core.rollout.rows import DeviceRows
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.tools import Tool
from aquarat_core.runtime.preemption import Abandoned, Stop, never

SYNC_EVERY = 8
"""Steps between two checks by the host of which rows have ended."""
MAX_FLOAT32_ROWS = 32
"""Up to this many rows, float32 keys and values are faster on a CPU: they avoid the overhead of oneDNN calls."""


class Engine:
    """Generates from one model until one of `stop_tokens` or the token budget.

    Steps are captured and replayed with `graph_capture`. The default is CUDA graphs on a GPU and eager steps on a CPU.
    """

    def __init__(
        self, model: Transformer, stop_tokens: Sequence[int], graph_capture: GraphCapture | None = None
    ) -> None:
        self.stop_tokens = tuple(stop_tokens)
        if graph_capture is None and model.cos.is_cuda:
            graph_capture = CudaGraphs()
        self.graph_capture = graph_capture
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.prepare_generation()
        self._runner: GraphRunner | None = None

    @torch.no_grad()
    def refresh(self, model: Transformer) -> None:
        """Copy the weights of `model`."""
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
        enough: Enough | None = None,
    ) -> list[list[Completion]]:
        """Completions of each prompt, one for each of its keys (int64 seeds), `max_rows` at a time.

        A completion's random numbers depend on its key alone, not on the rest of the batch. Every few tokens, `stop` is
        checked and `tell` is called with the number of finished completions. Completions for whose tokens so far
        `enough` returns true are not continued: they are returned as they are then, a few tokens longer than needed.
        Raises `UsageError` if a prompt and the budget do not fit the model's sequence length, and `Abandoned` once
        `stop` returns true.
        """
        self._check_lengths(prompts, max_new_tokens)
        sampling = Sampling(temperature, top_k, top_p)
        requests: list[Request] = []
        n = 0
        for prompt, row_keys in zip(prompts, keys, strict=True):
            requests.append(Request(prompt, row_keys, n, max_new_tokens, sampling, tool, enough))
            n += len(row_keys)
        # Prompts of similar length are prefilled together, to minimize padding.
        ordered = sorted(requests, key=lambda request: len(request.prompt))
        batch = Batch(self._runner_for(requests, min(max_rows, n), max_new_tokens), ordered)
        while left := batch.harvest():
            if stop():
                raise Abandoned("sampling was abandoned")
            if tell:
                tell(len(batch.completions))
            for _ in range(min(1 if batch.needs_host else SYNC_EVERY, left)):
                batch.step()
        return [[batch.completions[r.first + i] for i in range(len(r.keys))] for r in requests]

    def stream(
        self, prompt: Sequence[int], key: int, max_new_tokens: int, sampling: Sampling, tool: Tool | None = None
    ) -> Iterator[Drawn]:
        """The tokens of one completion, each as soon as it is there; with the stop token, if one is sampled.

        They are those of `generate`. The engine must do nothing else meanwhile. Raises the same `UsageError`.
        """
        self._check_lengths([prompt], max_new_tokens)
        request = Request(prompt, [key], 0, max_new_tokens, sampling, tool)
        return self._drawn(Batch(self._runner_for([request], 1, max_new_tokens), [request]))

    def _drawn(self, batch: Batch) -> Iterator[Drawn]:
        while True:
            with torch.inference_mode():  # not while the caller has control
                if not batch.harvest():
                    return
                batch.step()
                (drawn,) = batch.newest()
            yield drawn

    def open(self, rows: int, prompt_len: int, budget: int) -> Batch:
        """A batch of its own to which requests with one key each can be added at any time.

        It has room for `rows` completions at a time, of prompts of up to `prompt_len` tokens and with a budget of up to
        `budget` tokens; further ones wait. Use it inside `torch.inference_mode()`.
        """
        # Captured steps work on fixed addresses, and read no more than they need.
        elastic = self.graph_capture is None
        return Batch(
            self._runner_of_size(rows, PROMPT_ROOM if elastic else prompt_len, 1, rows, budget), elastic=elastic
        )

    def _check_lengths(self, prompts: Sequence[Sequence[int]], budget: int) -> None:
        longest, room = max(map(len, prompts), default=0), self.model.config.sequence_len
        if longest + budget > room:
            raise UsageError(
                f"a prompt of {longest} tokens and {budget} new tokens do not fit into the model's sequence_len of "
                f"{room}: shorten the text or lower max_new_tokens"
            )

    def _runner_for(self, requests: Sequence[Request], rows: int, budget: int) -> GraphRunner:
        """A runner whose KV cache has at least this size: the previous one if it is large enough.

        It has room for twice as many prompts as full groups in the rows: a prompt stays while any of its rows is live.
        """
        slots = max((len(request.keys) for request in requests), default=1)
        prompts = min(len(requests), max(2, 2 * rows // slots))
        prompt_len = max((len(request.prompt) for request in requests), default=1)
        size = (prompts, prompt_len, slots, rows, budget)
        if self._runner is None or not self._runner.rows.kv_cache.fits(*size):
            if self._runner is not None and self._runner.failed:
                self.graph_capture = None
            self._runner = None  # frees its memory before the next one is allocated
            self._runner = self._runner_of_size(*size)
        return self._runner

    def _runner_of_size(self, prompts: int, prompt_len: int, slots: int, rows: int, budget: int) -> GraphRunner:
        device, dtype = self.model.cos.device, self.model.compute_dtype
        if device.type == "cpu" and rows <= MAX_FLOAT32_ROWS:
            dtype = torch.float32
        kv_cache = KVCache(self.model.config, prompts, prompt_len, slots, rows, budget, dtype, device)
        return GraphRunner(DeviceRows(self.model, kv_cache, self.stop_tokens), self.graph_capture)
