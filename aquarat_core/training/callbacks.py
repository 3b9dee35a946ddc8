"""Everything besides the update: small objects that are called at every step and may have state of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from aquarat_core.tracking.context import RunContext
from aquarat_core.tracking.metrics import MetricLog


@dataclass(slots=True)
class TrainingStep:
    """One step. The update adds its metrics, then the callbacks add theirs, in order."""

    done: int
    """Number of steps done, including this one."""
    total: int
    metrics: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=lambda: time.monotonic())

    @property
    def index(self) -> int:
        """Number of steps done before this one. All randomness must depend only on this and the seed."""
        return self.done - 1

    @property
    def last(self) -> bool:
        return self.done == self.total

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started

    def due(self, every: int | None) -> bool:
        """Whether an action is due that happens every `every` steps and after the last one; False for None."""
        return every is not None and (self.last or self.done % every == 0)


class Callback:
    """Called after the update of every step.

    A callback that has `state_dict` and `load_state_dict` is saved with every checkpoint under its `name`, which is
    part of the checkpoint format; `former_names` are its names in older checkpoints.
    """

    name: str
    former_names: tuple[str, ...] = ()

    def before_training(self, step: TrainingStep) -> None:
        """Called before the first step of a run that is not resumed; metrics added here become row 0."""

    def after_step(self, step: TrainingStep) -> None:
        """Called after every update."""


@dataclass
class LatestLoss(Callback):
    """The loss of the latest step, for the summary of a run that has no steps left when it resumes."""

    name = "latest"
    loss: float = float("nan")

    def after_step(self, step: TrainingStep) -> None:
        self.loss = step.metrics["train/loss"]

    def state_dict(self) -> dict[str, Any]:
        return {"loss": torch.tensor(self.loss, dtype=torch.float64)}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.loss = float(state_dict["loss"])


@dataclass
class Throughput(Callback):
    """Tokens per second, model FLOPs utilization, and the remaining seconds.

    `peak_flops` is the peak of all ranks together, None if unknown.
    """

    name = "throughput"
    batch_tokens: int
    flops_per_token: float
    peak_flops: float | None
    seconds: float = 0.0
    """Seconds of all steps so far, including those before a restart but not validation."""
    data_seconds: float = 0.0
    """The part of them in which this rank waited for its rows."""

    def after_step(self, step: TrainingStep) -> None:
        seconds = step.elapsed
        self.seconds += seconds
        self.data_seconds += step.metrics["time/data"]
        rate = self.batch_tokens / seconds
        step.metrics["train/tokens_per_second"] = rate
        if self.peak_flops:
            step.metrics["train/mfu"] = rate * self.flops_per_token / self.peak_flops
        step.metrics["time/eta"] = self.seconds / step.done * (step.total - step.done)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "data_seconds": self.data_seconds}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.seconds = state_dict["seconds"]
        self.data_seconds = state_dict.get("data_seconds", 0.0)  # missing in older states


@dataclass
class Validation(Callback):
    """Held-out loss and bits per byte, every `every` steps and after the last one."""

    name = "validation"
    every: int
    measure: Callable[[], dict[str, float]]
    scores: dict[str, float] = field(default_factory=dict)
    """Results of the latest measurement."""

    def after_step(self, step: TrainingStep) -> None:
        if step.due(self.every):
            started = time.monotonic()
            self.scores = self.measure()
            step.metrics |= self.scores | {"time/validation": time.monotonic() - started}

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.scores = dict(state_dict["scores"])


@dataclass
class MetricRecorder(Callback):
    """Writes the step's metrics to the log and reports progress. Must be the last callback."""

    name = "record"
    former_names = ("log",)
    log: MetricLog
    ctx: RunContext
    headlines: tuple[str, ...]
    """Metrics that are reported at each step."""
    report_all: bool = False
    """Report the latest value of every metric instead, the headlines first."""
    _latest: dict[str, float] = field(default_factory=dict)

    def before_training(self, step: TrainingStep) -> None:
        if step.metrics:
            self.log.row(step.done, **step.metrics)
            self._latest |= step.metrics

    def after_step(self, step: TrainingStep) -> None:
        self.log.row(step.done, **step.metrics)
        self._latest = self._latest | step.metrics if self.report_all else step.metrics
        first = {name: self._latest[name] for name in self.headlines if name in self._latest}
        self.ctx.progress(step.done, step.total, "steps", **(first | self._latest if self.report_all else first))

    def state_dict(self) -> dict[str, Any]:
        return self.log.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.log.load_state_dict(state_dict)
        if self.report_all:
            for row in state_dict["rows"].splitlines():
                self._latest |= json.loads(row)
            self._latest.pop("step", None)
