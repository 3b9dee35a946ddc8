"""One run of a training stage, and the step loop that pretraining, mid-training, SFT and RL share.

    with training_session(ctx, config) as session:                   # the processes, the log, the W&B run
        ...                                                          # a model on session.world.device
        with session.loop(replicated, sharded, callbacks) as loop:   # restored from the latest checkpoint
            for step in loop:
                step.metrics |= update(step.index, loop.stop)

After the body of a step, its callbacks run in order, then the metrics are recorded, then a checkpoint is taken if one
is due. SIGTERM is noticed between steps and whenever the body calls `loop.stop`. A body that raises `Abandoned`, on all
ranks and before it has changed anything, ends the run with the state of the last completed step saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from aquarat_core.checkpointing import Checkpointer, Stateful, previous_wandb_id
from aquarat_core.config import CheckpointConfig, LaunchConfig, WandbConfig
from aquarat_core.runtime.distributed import World, distributed_world
from aquarat_core.runtime.preemption import Abandoned
from aquarat_core.tracking.context import RunContext
from aquarat_core.tracking.metrics import MetricLog, metric_log
from aquarat_core.training.callbacks import Callback, MetricRecorder, TrainingStep


class SessionConfig(Protocol):
    """The common fields of all training stages' sections."""

    @property
    def launch(self) -> LaunchConfig: ...
    @property
    def wandb(self) -> WandbConfig: ...
    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def steps(self) -> int: ...


C = TypeVar("C", bound=SessionConfig)
C_co = TypeVar("C_co", bound=SessionConfig, covariant=True)


class StepLoop:
    """The remaining steps of a run, continuing an earlier start."""

    def __init__(self, checkpointer: Checkpointer, total: int, callbacks: Sequence[Callback]) -> None:
        self._checkpointer, self._total, self._callbacks = checkpointer, total, callbacks
        self.done = checkpointer.restore()
        """Number of steps completed, including their callbacks."""

    def __iter__(self) -> Iterator[TrainingStep]:
        """Each remaining step; callbacks, metrics and checkpoint follow when the next step is requested.

        Raises `Preempted`, with everything saved, if any rank received SIGTERM.
        """
        if self.done == 0:
            start = TrainingStep(0, self._total)
            for callback in self._callbacks:
                callback.before_training(start)
        while self.done < self._total:
            step = TrainingStep(self.done + 1, self._total)
            yield step
            for callback in self._callbacks:
                callback.after_step(step)
            self.done = step.done
            self._checkpointer.after_step(step.done)

    def stop(self) -> bool:
        """Whether this rank received SIGTERM."""
        return self._checkpointer.stop()

    def any_stops(self) -> bool:
        """Whether any rank received SIGTERM; a collective operation."""
        return self._checkpointer.any_stops()

    @property
    def checkpoint_seconds(self) -> float:
        """Seconds that training paused for checkpoints."""
        return self._checkpointer.blocked_seconds


@dataclass(frozen=True, slots=True)
class TrainingSession(Generic[C_co]):
    """A training stage on one rank: its context, config, processes and log."""

    ctx: RunContext
    config: C_co
    world: World
    log: MetricLog

    @contextmanager
    def loop(
        self,
        replicated: Mapping[str, Stateful],
        sharded: Mapping[str, Stateful],
        callbacks: Sequence[Callback],
        headlines: tuple[str, ...],
        report_all: bool = False,
    ) -> Generator[StepLoop]:
        """The loop over `config.steps` steps, with the state of the latest checkpoint loaded.

        `replicated` state is equal on all ranks; each rank owns a part of `sharded`. Both, and callbacks with state,
        are saved under their names. `headlines` are the metrics reported at each step or, with `report_all`, those that
        come first. Raises `Preempted` after SIGTERM.
        """
        ctx, config = self.ctx, self.config
        watching = (*callbacks, MetricRecorder(self.log, ctx, headlines, report_all))
        state = _named_state(replicated, watching)
        wandb_id = (ctx.wandb or {}).get("run_id")
        with Checkpointer(ctx.work, config.checkpoint, self.world, state, sharded, ctx.log, wandb_id) as checkpointer:
            loop = StepLoop(checkpointer, config.steps, watching)
            try:
                yield loop
            except Abandoned:
                checkpointer.end_preempted(loop.done)


@contextmanager
def training_session(ctx: RunContext, config: C) -> Generator[TrainingSession[C]]:
    """Join the stage's processes and open its log; a resumed run continues its W&B run."""
    previous = previous_wandb_id(ctx.work, config.checkpoint.resume)
    with distributed_world(config.launch) as world, metric_log(ctx, config.wandb, previous) as log:
        yield TrainingSession(ctx, config, world, log)


def _named_state(replicated: Mapping[str, Stateful], callbacks: Sequence[Callback]) -> dict[str, Stateful]:
    """The state that rank 0 saves, by name."""
    counts = Counter([*replicated, *(callback.name for callback in callbacks)])
    twice = sorted(name for name, count in counts.items() if count > 1)
    assert not twice, f"two parts of a run's state are named {', '.join(twice)}: one would overwrite the other"
    return {**replicated, **{c.name: c for c in callbacks if isinstance(c, Stateful)}}
