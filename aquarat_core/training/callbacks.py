"""What happens besides the update: small objects that see every step and may have state of their own."""

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
    """One step: the update adds its metrics, then the callbacks add theirs, in their order."""

    done: int
    """Steps done after this one."""
    total: int
    metrics: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=lambda: time.monotonic())

    @property
    def index(self) -> int:
        """Steps done before this one: with the seed, all that randomness may depend on."""
        return self.done - 1

    @property
    def last(self) -> bool:
        return self.done == self.total

    @property
    def elapsed(self) -> float:
        """Seconds since the step was begun."""
        return time.monotonic() - self.started

    def due(self, every: int | None) -> bool:
        """Whether something is due that happens every so many steps and after the last; never for None."""
        return every is not None and (self.last or self.done % every == 0)


class Callback:
    """Sees every step after its update.

    One that has `state_dict` and `load_state_dict` is saved with every checkpoint under its `name`, which is part of
    the checkpoints' format; `former_names` are those under which older checkpoints hold it.
    """

    name: str
    former_names: tuple[str, ...] = ()

    def before_training(self, step: TrainingStep) -> None:
        """Called before the first step of a run that is not resumed; what is added to the metrics makes row 0."""

    def after_step(self, step: TrainingStep) -> None:
        """Called after every update."""


@dataclass
class LatestLoss(Callback):
    """The loss of the latest step, for the summary of a run that resumes with nothing left to do."""

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
    """Tokens per second, model FLOPs utilization, and the seconds that are left.

    `peak_flops` is that of all ranks together, None if the hardware's is not known.
    """

    name = "throughput"
    batch_tokens: int
    flops_per_token: float
    peak_flops: float | None
    seconds: float = 0.0
    """Of all steps so far, those before a restart included; validation is not counted."""

    def after_step(self, step: TrainingStep) -> None:
        seconds = step.elapsed
        self.seconds += seconds
        rate = self.batch_tokens / seconds
        step.metrics["train/tokens_per_second"] = rate
        if self.peak_flops:
            step.metrics["train/mfu"] = rate * self.flops_per_token / self.peak_flops
        step.metrics["time/eta"] = self.seconds / step.done * (step.total - step.done)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.seconds = state_dict["seconds"]


@dataclass
class Validation(Callback):
    """Held-out loss and bits per byte, every `every` steps and after the last."""

    name = "validation"
    every: int
    measure: Callable[[], dict[str, float]]
    scores: dict[str, float] = field(default_factory=dict)
    """Those of the latest measurement."""

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
    """Metrics that are reported, those of each step."""
    report_all: bool = False
    """Report every metric with its latest known value instead, the headlines first."""
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
