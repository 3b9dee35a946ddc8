"""Capture and replay of decoding steps: on a GPU a step consists of hundreds of kernels, and launching them takes
longer than running them.

A captured graph works on fixed addresses and shapes, so shapes are rounded up to a few values; the excess rows, prompts
and tokens are masked or their results ignored. The first step of each kind runs eagerly on a side stream, the second is
captured. The first capture is verified: its replay must give the results of the eager step. If capture or verification
fails, generation continues eagerly, and the log gives the reason once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from aquarat_core.model.kv_cache import DecodeShape
from aquarat_core.model.typed_torch import vector_norm
from aquarat_core.rollout.rows import DecodeStep, DeviceRows

MIN_ROWS, PROMPT_TOKENS, GENERATED_TOKENS = 8, 64, 32
"""Rows (at least `MIN_ROWS`) and prompts are rounded up to quarters of powers of two, tokens to multiples of these."""
SAME_ROWS, SAME_HIDDEN = 0.99, 0.05
"""In a verified replay, this fraction of rows must sample the same token and reach the same hidden state within this
fraction of its norm: the last bits of a product may differ."""

Run = Callable[[], None]
_log = logging.getLogger(__name__)


class GraphCapture(Protocol):
    """A way to capture a step and replay it."""

    def warmup(self, run: Run) -> None:
        """Run the step for real, so that one-time allocations happen before the capture."""
        ...

    def capture(self, run: Run) -> Run:
        """Capture the step without running it, and return its replay. Raises `RuntimeError` if that fails."""
        ...


class CudaGraphs:
    """CUDA graphs (docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs") with a common memory pool: no graph
    needs what another graph left there."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream()

    def warmup(self, run: Run) -> None:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            run()
        torch.cuda.current_stream().wait_stream(self._side)

    def capture(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device at the same time, such as one that saves a checkpoint.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
            run()
        return graph.replay


class GraphRunner:
    """Captures and replays the steps of `rows`; without `graph_capture`, runs them eagerly in their exact shapes."""

    def __init__(self, rows: DeviceRows, graph_capture: GraphCapture | None) -> None:
        self.rows, self.graph_capture = rows, graph_capture
        self.failed = False
        """Whether capture failed and steps run eagerly."""
        self._captured: dict[DecodeStep, Run] = {}
        self._seen: set[DecodeStep] = set()
        self._verified = False

    def advance(self, step: DecodeStep) -> None:
        """Run one step."""
        if self.graph_capture is None or self.failed:
            self.rows.advance(step)
            return
        step = replace(step, shape=rounded(step.shape, self.rows.kv_cache.size))
        if step not in self._seen:
            self._seen.add(step)
            self.graph_capture.warmup(lambda: self.rows.advance(step))
            return
        if step not in self._captured:
            try:
                self._captured[step] = self._capture(self.graph_capture, step)
            except RuntimeError as e:
                _log.warning("generation continues without captured steps, which is slower: %s", e)
                self.failed = True
                self._captured.clear()
                self.rows.advance(step)
                return
        self._captured[step]()

    def _capture(self, graph_capture: GraphCapture, step: DecodeStep) -> Run:
        """The step's replay. Raises `RuntimeError`, leaving the rows unchanged, if capture or verification fails."""
        replay = graph_capture.capture(lambda: self.rows.advance(step))
        live_R = self.rows.live_R.clone()
        if not self._verified and live_R.any():
            tokens_RS, hidden_RC = self._dry_run(lambda: self.rows.advance(step))
            again_RS, again_RC = self._dry_run(replay)
            distance_R = vector_norm((again_RC - hidden_RC).float(), dim=1)
            near_R = distance_R <= SAME_HIDDEN * vector_norm(hidden_RC.float(), dim=1)
            same = ((tokens_RS == again_RS).all(dim=1) & near_R)[live_R].float().mean().item()
            if same < SAME_ROWS:
                raise RuntimeError(f"the replay of a step gave other results in {1 - same:.1%} of the rows")
            self._verified = True
        return replay

    def _dry_run(self, run: Run) -> tuple[Tensor, Tensor]:
        """The rows' tokens and hidden states after `run`, whose effects are then undone."""
        before = [tensor.clone() for tensor in self.rows.state]
        run()
        after = self.rows.tokens_RS.clone(), self.rows.hidden_RC.clone()
        for tensor, was in zip(self.rows.state, before, strict=True):
            tensor.copy_(was)
        return after


def rounded(shape: DecodeShape, size: tuple[int, int, int, int]) -> DecodeShape:
    """`shape` rounded up, so that many steps have the same one, within a KV cache of that size."""
    P, T, R, S = size
    rows = min(max(MIN_ROWS, quarters(shape.rows)), R)
    prompts = min(quarters(shape.prompts), P)
    return DecodeShape(
        rows,
        prompts,
        prompt_len=min(-(-shape.prompt_len // PROMPT_TOKENS) * PROMPT_TOKENS, T),
        n_generated=min(-(-shape.n_generated // GENERATED_TOKENS) * GENERATED_TOKENS, S),
        in_slot_order=shape.in_slot_order and (rows, prompts) == (shape.rows, shape.prompts),
    )


def quarters(n: int) -> int:
    """`n` rounded up to a multiple of a quarter of the power of two below: adds at most a quarter."""
    quarter = max(1, (1 << (n - 1).bit_length()) // 8)
    return -(-n // quarter) * quarter
