"""RL: in each step, sample answers with the current policy, grade them and update the policy.

By default this is REINFORCE on fresh samples, with the mean reward of a question's group as baseline: GRPO without the
division by the group's standard deviation, without a KL term, and with equal weights for all tokens of a step;
`objective/` has the alternatives, among them self-distillation, which measures rewards but learns from a teacher.
Everything else, from held-out accuracy to alarms, is a callback of the loop.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import torch

from aquarat_core.checkpointing import Stateful
from aquarat_core.config import RLConfig
from aquarat_core.evaluation.protocols import accuracy
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.alarms import Monitors
from aquarat_core.rl.best import BestPolicy
from aquarat_core.rl.callbacks import PHASES, AlarmReport, Measurement, RewardChanges, RunTotals, SampledAnswers
from aquarat_core.rl.curriculum import Curriculum, CurriculumMixture
from aquarat_core.rl.preflight import check_first_batch
from aquarat_core.rl.probes import Probes
from aquarat_core.rl.rollouts import Group, RolloutCollector, samples
from aquarat_core.rl.samples import COLUMNS
from aquarat_core.rl.tally import step_metrics
from aquarat_core.rl.task_mixture import Part, parts_of, shares
from aquarat_core.rl.update import PolicyOptimizer
from aquarat_core.rollout.engine import Engine
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.hardware import deterministic
from aquarat_core.runtime.preemption import Abandoned, never
from aquarat_core.tasks.task import A, Example, Reward, Task
from aquarat_core.text.chat import stop_tokens
from aquarat_core.text.tokenizer import Tokenizer
from aquarat_core.tracking.sample_table import SampleTable
from aquarat_core.training.callbacks import Callback
from aquarat_core.training.session import TrainingSession

HEADLINES = ("rl/mean_reward", "eval/accuracy", "rl/parse_rate")
"""Metrics that are reported first."""

T = TypeVar("T")


class Stopping(Protocol):
    """Reports whether the run was asked to stop."""

    def stop(self) -> bool:
        """Whether this rank was asked to stop."""
        ...

    def any_stops(self) -> bool:
        """Whether any rank was asked to stop; a collective operation."""
        ...


class Trainer(Generic[A]):
    """The policy, the sampling engine and the frozen reference of one RL run."""

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
        self.engine = Engine(policy, stop_tokens(tokenizer))
        self.sampler = RolloutCollector(self.engine, tokenizer, config, task, reward)
        self.optimizer = PolicyOptimizer(policy, self.reference, config, world)
        self.parts = parts_of(task)
        self.curriculum = _curriculum(self.parts, questions, config, world)
        self.alarms = Monitors({part.suffix: part.task.categories for part in self.parts})
        self.best = BestPolicy(policy, len(held_out))
        self.probes = {
            part.suffix: Probes(
                part.task, part.select(held_out)[: config.probe_questions], tokenizer, self.reference, world
            )
            for part in self.parts
        }
        self.totals = RunTotals()
        self.groups: list[Group[A]] = []
        """This rank's groups of the latest step."""
        self.measurements: tuple[Callback, ...] = (
            Measurement("held_out", config.eval_every, self._accuracies, "eval"),
            self.best,
            Measurement("probes", config.eval_every, self.probe_metrics, "probe"),
        )
        """Accuracy of the policy on the held-out questions."""

    def run(self, session: TrainingSession[RLConfig]) -> dict[str, float]:
        """Train until `config.steps` steps are done, continuing an earlier start, and measure held-out accuracy;
        returns the summary. Leaves the policy that `config.publish` selects."""
        config, ctx, schedule = self.config, session.ctx, self.sampler.schedule
        if config.reward.format_bonus:
            ctx.log(
                f"warning: {config.reward.format_bonus} is paid for every well-formed answer, right or wrong "
                "(rl_checkpoint.reward.format_bonus): rl/mean_reward is not accuracy, and the form alone can raise it"
            )
        # Without changes there is no state of it, as in checkpoints that are older than these.
        changing = [RewardChanges(schedule, ctx.log)] if schedule.changes else []
        table = SampleTable(ctx, session.log, "rl/samples", COLUMNS)
        callbacks = (
            *self.measurements,
            SampledAnswers(config.eval_every, table, lambda: self.groups, self.world.rank),
            *changing,
            AlarmReport(self.alarms, ctx.log),
            self.totals,
        )
        replicated: dict[str, Stateful] = {"model": self.policy, "curriculum": self.curriculum}
        if (teacher := self.optimizer.teacher) and teacher.averages:
            replicated["teacher"] = teacher
        sharded = {"updater": self.optimizer.sharded}
        with session.loop(replicated, sharded, callbacks, HEADLINES, report_all=True) as loop:
            self.engine.refresh(self.policy)
            for step in loop:
                metrics, self.groups = self.step(step.index, loop)
                step.metrics |= metrics
        if config.publish == "best":
            self.best.restore()
            ctx.log(
                f"publishing the policy after step {self.best.step}: {self.best.accuracy:.1%} of held-out questions"
            )
        return self._summary()

    def _summary(self) -> dict[str, float]:
        first, last, seconds = self.totals.first, self.totals.last, self.totals.seconds
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
            "sampled_tokens": round(self.totals.tokens),
            "sampled_tokens_per_second": self.totals.tokens / seconds["all"],
            **self.sampler.schedule.summary(),
            **{f"{phase}_share": seconds[phase] / seconds["all"] for phase in PHASES},
        }

    def step(self, step: int, asked: Stopping | None = None) -> tuple[dict[str, float], list[Group[A]]]:
        """Ask, sample and update once. The metrics cover all ranks, the groups are this rank's.

        Raises `StageError` at the first step if its metrics leave nothing to learn from, and `Abandoned` on all ranks,
        before anything has changed, if any rank is `asked` to stop.
        """
        before = time.monotonic()
        sampling, scoring = self.sampler.seconds_rollout, self.sampler.seconds_scoring
        config, world = self.config, self.world
        drawn = self.curriculum.draw(step, config.prompts_per_step)
        places = world.shard(list(range(len(drawn))))
        self.sampler.stop = asked.stop if asked else never
        groups = _unless_stopped(lambda: self.sampler.collect([self.questions[drawn[p]] for p in places], step), asked)
        metrics = step_metrics(groups, self.task, world)
        if step == 0:
            check_first_batch(metrics, config, [part.name for part in self.parts if part.name])

        def replacement(round_: int, i: int) -> Example[A]:
            return self.questions[self._replacement(step, round_, places[i])]

        taught, extra = _unless_stopped(lambda: self.sampler.resample_zero_variance(groups, step, replacement), asked)
        lengths = [c.n_sampled for group in taught for c in group.completions]
        learned = torch.tensor([sum(lengths), extra], dtype=torch.float64, device=world.device)
        n_tokens, refilled = world.totals(learned)
        sampled_at = time.monotonic()
        with deterministic(config.launch.deterministic, world.device):
            metrics |= self.optimizer.update(step, samples(taught, config), n_tokens, self.sampler.stop)
        self.curriculum.update({drawn[p]: _solved(group) for p, group in zip(places, groups, strict=True)})
        self.engine.refresh(self.policy)
        spent = {
            "rollout": self.sampler.seconds_rollout - sampling,
            "scoring": self.sampler.seconds_scoring - scoring,
            "update": time.monotonic() - sampled_at,
        }
        return {
            **metrics,
            **self.curriculum.metrics(),
            "rl/refilled_groups": refilled,
            "rl/trained_tokens": n_tokens,
            **{f"time/{phase}": seconds for phase, seconds in spent.items()},
            "time/step": time.monotonic() - before,
        }, taught

    def _replacement(self, step: int, round_: int, place: int) -> int:
        rounds, count_ = self.config.dynamic_sampling_rounds, self.config.prompts_per_step
        return self.curriculum.replacement(step, rounds, round_, count_, place)

    def _accuracies(self) -> dict[str, float]:
        """The share of held-out questions answered right, overall and for each of several tasks."""
        budget, tool = self.config.max_new_tokens, self.sampler.tool
        found: dict[str, float] = {}
        right = 0.0
        for part in self.parts:
            asked = part.select(self.held_out)
            share = accuracy(self.engine, self.tokenizer, part.task, asked, budget, self.world, tool)
            found[f"eval/accuracy{part.suffix}"] = share
            right += share * len(asked)
        return {"eval/accuracy": right / len(self.held_out)} | found

    def probe_metrics(self) -> dict[str, float]:
        """The current probe metrics of each task with letters; a collective operation."""
        return {
            f"{name}{suffix}": value
            for suffix, probes in self.probes.items()
            for name, value in probes.metrics(self.policy).items()
        }


def _curriculum(
    parts: Sequence[Part], questions: Sequence[Example[Any]], config: RLConfig, world: World
) -> Curriculum | CurriculumMixture:
    """The curriculum of a single task, or those of several, whose questions are numbered one task after the other."""
    made = {
        part.suffix: Curriculum(
            [part.task.chance(e) for e in part.select(questions)], config.seed, config.curriculum, world
        )
        for part in parts
    }
    if len(parts) == 1:
        return made[parts[0].suffix]
    weights = {task.name: task.weight for task in config.tasks}
    return CurriculumMixture(made, shares([weights[part.name] for part in parts], config.prompts_per_step))


def _unless_stopped(sample: Callable[[], T], asked: Stopping | None) -> T:
    """Returns the result of `sample`. Raises `Abandoned` on all ranks if any was asked to stop: such ranks abandon
    sampling and meet the others here."""
    if asked is None:
        return sample()
    found: T | None = None
    with suppress(Abandoned):
        found = sample()
    if asked.any_stops():
        raise Abandoned("the step was abandoned")
    assert found is not None, "only ranks that were asked to stop abandon sampling"
    return found


def _solved(group: Group[Any]) -> float:
    right = [grade.correct for grade in group.grades]
    return sum(right) / len(right)
