"""What happens beside the update: each a small object that sees every step and may have state of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aquarat_core.tracking.context import RunContext
from aquarat_core.tracking.metrics import MetricLog


@dataclass(slots=True)
class Step:
    """A step that has just been taken; callbacks add to its `metrics`, in their order."""

    done: int
    """Steps done, this one included."""
    total: int
    metrics: dict[str, float]

    @property
    def last(self) -> bool:
        return self.done == self.total


class Callback:
    """Sees every step after its update. What `state_dict` gives is saved with every checkpoint."""

    def after_step(self, step: Step) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None: ...


@dataclass
class Throughput(Callback):
    """Tokens a second, the share of the hardware's peak, and the seconds that are left.

    `peak_flops` is that of all ranks together, None where the hardware's is not known.
    """

    batch_tokens: int
    flops_per_token: float
    peak_flops: float | None
    seconds: float = 0.0
    """Of all steps so far, those before a restart included; validation is not in it."""
    _since: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        self._since = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of the step that is being taken."""
        return time.monotonic() - self._since

    def after_step(self, step: Step) -> None:
        seconds = self.elapsed
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

    every: int
    measure: Callable[[], dict[str, float]]
    scores: dict[str, float] = field(default_factory=dict)
    """Of the latest measurement."""

    def after_step(self, step: Step) -> None:
        if step.last or step.done % self.every == 0:
            started = time.monotonic()
            self.scores = self.measure()
            step.metrics |= self.scores | {"time/validation": time.monotonic() - started}

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.scores = dict(state_dict["scores"])


@dataclass
class Record(Callback):
    """Writes the step's row and tells whoever watches; stands last, when the metrics are complete."""

    log: MetricLog
    ctx: RunContext
    shown: tuple[str, ...] = ("train/loss", "val/bpb", "train/tokens_per_second")

    def after_step(self, step: Step) -> None:
        self.log.row(step.done, **step.metrics)
        self.ctx.progress(step.done, step.total, **{k: step.metrics[k] for k in self.shown if k in step.metrics})

    def state_dict(self) -> dict[str, Any]:
        return self.log.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.log.load_state_dict(state_dict)
