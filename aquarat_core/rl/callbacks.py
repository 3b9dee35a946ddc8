"""The parts of an RL run other than updates: measurements, samples for people to read, alarms and totals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aquarat_core.rl.alarms import Monitors
from aquarat_core.rl.reward import RewardSchedule
from aquarat_core.rl.rollouts import Group
from aquarat_core.rl.samples import sample_rows
from aquarat_core.tracking.sample_table import SampleTable
from aquarat_core.training.callbacks import Callback, TrainingStep

PHASES = ("rollout", "scoring", "update", "eval", "probe")
"""The phases into which a run's time is divided; the rest is bookkeeping."""


@dataclass
class Measurement(Callback):
    """Measures the policy before the first step, every `every` steps and after the last step."""

    name: str
    every: int
    measure: Callable[[], dict[str, float]]
    phase: str
    """The entry of `PHASES` that its time is added to."""

    def before_training(self, step: TrainingStep) -> None:
        self.take(step)

    def after_step(self, step: TrainingStep) -> None:
        if step.due(self.every):
            self.take(step)

    def take(self, step: TrainingStep) -> None:
        """Measure now. Every rank must call this."""
        started = time.monotonic()
        step.metrics |= self.measure()
        step.metrics[f"time/{self.phase}"] = time.monotonic() - started


@dataclass
class SampledAnswers(Callback):
    """Writes sampled answers of a step to the table when evaluations are due."""

    name = "samples"
    every: int
    table: SampleTable
    groups: Callable[[], Sequence[Group[Any]]]
    """This rank's groups of the latest step."""
    rank: int

    def after_step(self, step: TrainingStep) -> None:
        if self.rank == 0 and step.due(self.every):
            self.table.add(step.done, sample_rows(step.done, self.groups()))

    def state_dict(self) -> dict[str, Any]:
        return self.table.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.table.load_state_dict(state_dict)


@dataclass
class RewardChanges(Callback):
    """Shows in the metrics what a step was paid if that changes within the run, and logs the changes."""

    name = "reward"
    schedule: RewardSchedule
    log: Callable[[str], None]

    def after_step(self, step: TrainingStep) -> None:
        step.metrics |= self.schedule.metrics(step.index, step.metrics["rl/mean_reward"])
        for text in self.schedule.after_step(step.index, step.metrics["rl/parse_rate"]):
            self.log(f"step {step.done}: {text}")

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.schedule.load_state_dict(state_dict)


@dataclass
class AlarmReport(Callback):
    """Counts the active alarms in `rl/alarms`, and logs those that have just started."""

    name = "alarms"
    alarms: Monitors
    log: Callable[[str], None]

    def after_step(self, step: TrainingStep) -> None:
        step.metrics["rl/alarms"], news = self.alarms.watch(step.metrics)
        for text in news:
            self.log(f"step {step.done}: {text}")

    def state_dict(self) -> dict[str, Any]:
        return self.alarms.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.alarms.load_state_dict(state_dict)


@dataclass
class RunTotals(Callback):
    """Data for the summary that must survive restarts: first and last metrics, tokens, and time by phase."""

    name = "progress"
    first: dict[str, float] = field(default_factory=dict)
    """From the evaluation before the first step, and the first step's mean reward."""
    last: dict[str, float] = field(default_factory=dict)
    tokens: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*PHASES, "all"), 0.0))
    """Time by phase; `all` is the time of all steps."""

    def before_training(self, step: TrainingStep) -> None:
        self.first = dict(step.metrics)
        self._count_phases(step)

    def after_step(self, step: TrainingStep) -> None:
        self.first.setdefault("rl/mean_reward", step.metrics["rl/mean_reward"])
        self.tokens += step.metrics["rl/trained_tokens"]
        self._count_phases(step)
        self.seconds["all"] += step.elapsed
        step.metrics["time/probe_share"] = self.seconds["probe"] / self.seconds["all"]
        self.last = dict(step.metrics)

    def _count_phases(self, step: TrainingStep) -> None:
        for phase in PHASES:
            self.seconds[phase] += step.metrics.get(f"time/{phase}", 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.first, self.last = dict(state_dict["first"]), dict(state_dict["last"])
        self.tokens, self.seconds = state_dict["tokens"], dict(state_dict["seconds"])
