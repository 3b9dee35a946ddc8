"""The RL loop: sample with the current policy, judge, learn, measure."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import torch

from aquarat_core.config import RLConfig
from aquarat_core.evaluation.protocols import accuracy
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.alarms import Monitors
from aquarat_core.rl.best import BestPolicy
from aquarat_core.rl.curriculum import Curriculum
from aquarat_core.rl.preflight import check_first_batch
from aquarat_core.rl.probes import Probes
from aquarat_core.rl.rollouts import Group, RolloutCollector, samples
from aquarat_core.rl.samples import COLUMNS, sample_rows
from aquarat_core.rl.tally import all_reduce, count, summarize
from aquarat_core.rl.update import Learner
from aquarat_core.rollout.engine import Engine
from aquarat_core.tasks.task import A, Example, Reward, Task
from aquarat_core.text.tokenizer import Tokenizer
from aquarat_core.training.checkpointing import Checkpointer
from aquarat_core.training.context import RunContext
from aquarat_core.training.distributed import World
from aquarat_core.training.hardware import deterministic
from aquarat_core.training.metrics import MetricLog
from aquarat_core.training.sample_table import SampleTable
from aquarat_core.training.stopped import Abandoned, never

PHASES = ("rollout", "scoring", "update", "eval", "probe")
"""What the time of a run is divided into; the rest is bookkeeping."""
HEADLINES = ("rl/mean_reward", "eval/accuracy", "rl/parse_rate")
"""What comes first where there is room for a few figures only."""

T = TypeVar("T")


class Stopping(Protocol):
    """Tells whether the run was asked to stop."""

    def stop(self) -> bool:
        """Whether this rank was."""

    def any_stops(self) -> bool:
        """Whether any rank was; a collective."""


class Trainer(Generic[A]):
    """Owns the policy, the sampling engine and the frozen reference of one RL run."""

    def __init__(
        self,
        policy: Transformer,
        tokenizer: Tokenizer,
        config: RLConfig,
        world: World,
        task: Task[A],
        questions: Sequence[Example[A]],
        held_out: Sequence[Example[A]],
        reward: Reward[A] | None = None,
    ) -> None:
        self.policy, self.tokenizer, self.config, self.world = policy, tokenizer, config, world
        self.task, self.questions, self.held_out = task, questions, held_out
        self.reference = copy.deepcopy(policy).requires_grad_(False)
        self.engine = Engine(policy, tokenizer.special("<|assistant_end|>"))
        self.sampler = RolloutCollector(self.engine, tokenizer, config, task, reward)
        self.learner = Learner(policy, self.reference, config, world)
        self.curriculum = Curriculum([task.chance(e) for e in questions], config.seed, config.curriculum, world)
        self.alarms = Monitors(task.categories)
        self.best = BestPolicy(policy, len(held_out))
        self.probes = Probes(task, held_out[: config.probe_questions], tokenizer, self.reference, world)
        self.progress = _Progress()
        self._newest: dict[str, float] = {}
        """Every figure as it was when it was last known, so that each message has them all."""

    def run(self, ctx: RunContext, log: MetricLog) -> dict[str, float]:
        """Train until `config.steps` steps are done, from where an earlier start was, watching accuracy on the
        held-out questions; returns the summary. The policy is left as `config.publish` says."""
        config, at = self.config, self.progress
        if config.reward.format_bonus:
            ctx.log(
                f"warning: {config.reward.format_bonus} is paid for every well-formed answer, right or wrong "
                "(rl_checkpoint.reward.format_bonus): rl/mean_reward is not accuracy, and form alone can raise it"
            )
        table = SampleTable(ctx, log, "rl/samples", COLUMNS)
        parts = {
            "model": self.policy, "progress": at, "alarms": self.alarms, "curriculum": self.curriculum,
            "samples": table, "log": log, "best": self.best,
        }  # fmt: skip
        shards = {"updater": self.learner.updater}
        wandb_id = (ctx.wandb or {}).get("run_id")
        with Checkpointer(ctx.work, config.checkpoint, self.world, parts, shards, ctx.log, wandb_id) as checkpointer:
            done = checkpointer.restore()
            self.engine.refresh(self.policy)
            if done == 0:
                at.first = self._held_out_figures(0)
                log.row(0, **at.first)
            self._newest = at.first | at.last
            for step in range(done, config.steps):
                started = time.monotonic()
                with checkpointer.step(step):
                    metrics, groups = self.step(step, checkpointer)
                at.first.setdefault("rl/mean_reward", metrics["rl/mean_reward"])
                if step + 1 == config.steps or (step + 1) % config.eval_every == 0:
                    metrics |= self._held_out_figures(step + 1)
                    if self.world.rank == 0:
                        table.add(step + 1, sample_rows(step + 1, groups))
                at.tokens += metrics["rl/trained_tokens"]
                at.seconds["all"] += time.monotonic() - started
                self._record(step + 1, metrics, ctx, log)
                at.last = metrics
                checkpointer.after_step(step + 1)
        if config.publish == "best":
            self.best.restore()
            ctx.log(
                f"publishing the policy after step {self.best.step}: {self.best.accuracy:.1%} of held-out questions"
            )
        return self._summary()

    def _record(self, done: int, metrics: dict[str, float], ctx: RunContext, log: MetricLog) -> None:
        ringing, news = self.alarms.watch(metrics)
        for text in news:
            ctx.log(f"step {done}: {text}")
        seconds = self.progress.seconds
        row = metrics | {"rl/alarms": ringing, "time/probe_share": seconds["probe"] / seconds["all"]}
        log.row(done, **row)
        self._newest |= row
        first = {name: self._newest[name] for name in HEADLINES if name in self._newest}
        ctx.progress(done, self.config.steps, **first | self._newest)

    def _summary(self) -> dict[str, float]:
        first, last, seconds = self.progress.first, self.progress.last, self.progress.seconds
        return {
            "steps": self.config.steps,
            "reward_mean_first": first["rl/mean_reward"],
            "reward_mean_last": last["rl/mean_reward"],
            "kl_sequence_mean": last["rl/kl_sequence_mean"],
            "held_out_accuracy_before": first["eval/accuracy"],
            "held_out_accuracy_after": last["eval/accuracy"],
            "silent_steps": last["rl/silent_steps"],
            "held_out_accuracy_best": self.best.accuracy,
            "best_step": self.best.step or 0,
            "sampled_tokens": round(self.progress.tokens),
            "sampled_tokens_per_second": self.progress.tokens / seconds["all"],
            **{f"{phase}_share": seconds[phase] / seconds["all"] for phase in PHASES},
        }

    def step(self, step: int, asked: Stopping | None = None) -> tuple[dict[str, float], list[Group[A]]]:
        """Ask, sample and learn once; the figures are of all ranks, the groups this rank's.

        Raises `StageError` at the first step when its figures leave nothing to learn from, and `Abandoned` on all
        ranks, before anything has changed, if any rank is `asked` to stop.
        """
        before = time.monotonic()
        sampling, scoring = self.sampler.seconds_rollout, self.sampler.seconds_scoring
        config, world = self.config, self.world
        drawn = self.curriculum.draw(step, config.prompts_per_step)
        places = world.share(list(range(len(drawn))))
        self.sampler.stop = asked.stop if asked else never
        groups = _unless_stopped(lambda: self.sampler.collect([self.questions[drawn[p]] for p in places], step), asked)
        metrics = summarize(all_reduce(count(groups), self.task, world))
        if step == 0:
            check_first_batch(metrics, config)

        def replacement(round_: int, i: int) -> Example[A]:
            return self.questions[self._replacement(step, round_, places[i])]

        taught, extra = _unless_stopped(lambda: self.sampler.resample_zero_variance(groups, step, replacement), asked)
        lengths = [c.n_chosen for group in taught for c in group.completions]
        learned = torch.tensor([sum(lengths), extra], dtype=torch.float64, device=world.device)
        n_tokens, refilled = world.sum(learned).tolist()
        sampled_at = time.monotonic()
        with deterministic(config.launch.deterministic, world.device):
            metrics |= self.learner.learn(step, samples(taught, config), n_tokens, self.sampler.stop)
        self.curriculum.update({drawn[p]: _solved(group) for p, group in zip(places, groups, strict=True)})
        self.engine.refresh(self.policy)
        spent = {
            "rollout": self.sampler.seconds_rollout - sampling,
            "scoring": self.sampler.seconds_scoring - scoring,
            "update": time.monotonic() - sampled_at,
        }
        for phase, seconds in spent.items():
            self.progress.seconds[phase] += seconds
        return {
            **metrics,
            **self.curriculum.metrics(),
            "rl/refilled_groups": refilled,
            "rl/trained_tokens": n_tokens,
            **{f"time/{phase}": seconds for phase, seconds in spent.items()},
            "time/step": time.monotonic() - before,
        }, taught

    def _replacement(self, step: int, round_: int, place: int) -> int:
        rounds, count_ = self.config.refill_rounds, self.config.prompts_per_step
        return self.curriculum.replacement(step, rounds, round_, count_, place)

    def _held_out_figures(self, done: int) -> dict[str, float]:
        started = time.monotonic()
        found = {"eval/accuracy": self._accuracy()}
        self.best.watch(done, found["eval/accuracy"])
        probed = time.monotonic()
        found |= self.probes.metrics(self.policy)
        ended = time.monotonic()
        self.progress.seconds["eval"] += probed - started
        self.progress.seconds["probe"] += ended - probed
        return found | {"time/eval": probed - started, "time/probe": ended - probed}

    def _accuracy(self) -> float:
        config, tool = self.config, self.sampler.tool
        return accuracy(self.engine, self.tokenizer, self.task, self.held_out, config.max_new_tokens, self.world, tool)


class _Progress:
    """What the summary needs of the steps before a restart."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.tokens = 0.0
        self.seconds = dict.fromkeys((*PHASES, "all"), 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.first, self.last = dict(state_dict["first"]), dict(state_dict["last"])
        self.tokens, self.seconds = state_dict["tokens"], dict(state_dict["seconds"])


def _unless_stopped(sample: Callable[[], T], asked: Stopping | None) -> T:
    """What `sample` returns. Raises `Abandoned` on all ranks if any was asked to stop: ranks that were give sampling
    up, and meet the others here."""
    if asked is None:
        return sample()
    found: T | None = None
    with suppress(Abandoned):
        found = sample()
    if asked.any_stops():
        raise Abandoned("the step was given up")
    assert found is not None, "sampling is given up by ranks that were asked to stop alone"
    return found


def _solved(group: Group[Any]) -> float:
    right = [grade.correct for grade in group.grades]
    return sum(right) / len(right)
