"""Steps that are recorded once and replayed: on a GPU a step is some hundred kernels, and launching them one by one
takes longer than running them.

Recorded is what a step does to memory at fixed addresses, so shapes are rounded up to a few: what is read beyond the
rows, prompts and tokens that are there is masked or means nothing. A kind of step is run eagerly the first time, on the
side, and recorded the second. The first recording is proved: replayed, it must do what the same step did. Where
recording fails, or proves nothing, all goes on eagerly, and the log says why, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from aquarat_core.model.kv_cache import DecodeShape
from aquarat_core.rollout.rows import Rows, Step

FEWEST_ROWS, PROMPT_TOKENS, GENERATED_TOKENS = 8, 64, 32
"""Rows, at least so many, and prompts are rounded up to quarters of powers of two; tokens to multiples of these."""
SAME_ROWS, SAME_HIDDEN = 0.99, 0.05
"""Share of the rows that must draw the same token when a step is replayed, and come to the same hidden state but for
this share of its norm: the last bits of a product may differ."""

Run = Callable[[], None]
_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """How a step is recorded."""

    def warm(self, run: Run) -> None:
        """Run it for good, so that whatever is made once is made before the recording."""

    def record(self, run: Run) -> Run:
        """Record it without running it; what is returned replays it. Raises `RuntimeError` where that cannot be."""


class CudaGraphs:
    """CUDA graphs (docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs"), which share one pool of memory: what
    a graph leaves there is of no use to the next."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream()

    def warm(self, run: Run) -> None:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            run()
        torch.cuda.current_stream().wait_stream(self._side)

    def record(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as one that saves a checkpoint, may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
            run()
        return graph.replay


class Replays:
    """The steps of `rows`, recorded and replayed; with no recorder, run eagerly in their own shapes."""

    def __init__(self, rows: Rows, recorder: Recorder | None) -> None:
        self.rows, self.recorder = rows, recorder
        self.failed = False
        """Whether recording was given up."""
        self._recorded: dict[Step, Run] = {}
        self._seen: set[Step] = set()
        self._proved = False

    def advance(self, step: Step) -> None:
        """Do one step."""
        if self.recorder is None or self.failed:
            self.rows.advance(step)
            return
        step = replace(step, shape=rounded(step.shape, self.rows.kv_cache.size))
        if step not in self._seen:
            self._seen.add(step)
            self.recorder.warm(lambda: self.rows.advance(step))
            return
        if step not in self._recorded:
            try:
                self._recorded[step] = self._record(self.recorder, step)
            except RuntimeError as e:
                _log.warning("generation goes on without recorded steps, which is slower: %s", e)
                self.failed = True
                self._recorded.clear()
                self.rows.advance(step)
                return
        self._recorded[step]()

    def _record(self, recorder: Recorder, step: Step) -> Run:
        """The step's replay. Raises `RuntimeError`, with the rows as they were, when it is not to be trusted."""
        replay = recorder.record(lambda: self.rows.advance(step))
        live_R = self.rows.live_R.clone()
        if not self._proved and live_R.any():
            tokens_RS, hidden_RC = self._tried(lambda: self.rows.advance(step))
            again_RS, again_RC = self._tried(replay)
            near_R = (again_RC - hidden_RC).float().norm(dim=1) <= SAME_HIDDEN * hidden_RC.float().norm(dim=1)
            same = ((tokens_RS == again_RS).all(dim=1) & near_R)[live_R].float().mean().item()
            if same < SAME_ROWS:
                raise RuntimeError(f"replayed, a step did something else than before in {1 - same:.1%} of the rows")
            self._proved = True
        return replay

    def _tried(self, run: Run) -> tuple[Tensor, Tensor]:
        """The rows' tokens and hidden states after `run`, which is then undone."""
        before = [tensor.clone() for tensor in self.rows.state]
        run()
        after = self.rows.tokens_RS.clone(), self.rows.hidden_RC.clone()
        for tensor, was in zip(self.rows.state, before, strict=True):
            tensor.copy_(was)
        return after


def rounded(shape: DecodeShape, size: tuple[int, int, int, int]) -> DecodeShape:
    """`shape`, large enough for many steps, within a memory of that size."""
    P, T, R, S = size
    rows = min(max(FEWEST_ROWS, _quarters(shape.rows)), R)
    prompts = min(_quarters(shape.prompts), P)
    return DecodeShape(
        rows,
        prompts,
        prompt_len=min(-(-shape.prompt_len // PROMPT_TOKENS) * PROMPT_TOKENS, T),
        n_generated=min(-(-shape.n_generated // GENERATED_TOKENS) * GENERATED_TOKENS, S),
        in_slot_order=shape.in_slot_order and (rows, prompts) == (shape.rows, shape.prompts),
    )


def _quarters(n: int) -> int:
    """The next multiple of a quarter of the power of two below: at most a quarter is added."""
    quarter = max(1, (1 << (n - 1).bit_length()) // 8)
    return -(-n // quarter) * quarter
