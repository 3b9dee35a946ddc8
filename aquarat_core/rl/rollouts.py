"""One step's examples, sampled and graded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any, Generic

import torch

from aquarat_core.config import ConfigError, RLConfig
from aquarat_core.evaluation.forced import ForcedCue
from aquarat_core.evaluation.letters import answer_position, letter_ids, letter_logits, logits_after
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rl.advantage import group_std, mean_baseline
from aquarat_core.rl.demonstration import teacher_prompt
from aquarat_core.rl.reward import RewardSchedule, overlong_penalty, with_format_bonus
from aquarat_core.rl.scoring import Sample
from aquarat_core.rl.task_mixture import part_of, parts_of
from aquarat_core.rollout.batch import Completion
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key, uniform
from aquarat_core.rollout.tools import calculator
from aquarat_core.runtime.preemption import Stop, never
from aquarat_core.tasks.task import A, A_co, Example, Grade, Reward, Task
from aquarat_core.text.chat import render_prompt
from aquarat_core.text.tokenizer import Tokenizer

_CONTROL_DRAW = 1 << 40
"""A position where no token is ever sampled."""


@dataclass(frozen=True, slots=True)
class Group(Generic[A_co]):
    """The graded completions of one example."""

    example: Example[A_co]
    """The example as shown, with its choices in the order of this step."""
    prompt: list[int]
    completions: list[Completion]
    texts: list[str]
    grades: list[Grade]
    rewards: list[float]
    """The rewards for training: those of the grades, plus additions from the config."""
    teacher_prompt: Sequence[int] = ()
    """The tokens that the teacher of self-distillation reads in place of `prompt`."""

    @property
    def has_signal(self) -> bool:
        """Whether the rewards differ; if not, the group has no gradient."""
        return len(set(self.rewards)) > 1


class RolloutCollector(Generic[A]):
    """Samples groups with the policy of `engine` and grades them with `reward` (default: the task's own).

    Raises `ConfigError` if the configured reward needs letter answers and the task has none.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, config: RLConfig, task: Task[A], reward: Reward[A] | None = None
    ) -> None:
        self.engine, self.tokenizer, self.config, self.task = engine, tokenizer, config, task
        self.reward = reward or task.grade
        self.schedule = RewardSchedule(config.reward, config.steps)
        self.parts = parts_of(task)
        by_letter = config.reward.kind != "answer" or config.reward.control != "none"
        if by_letter and (others := [part.task.name for part in self.parts if not part.task.categories]):
            raise ConfigError(
                f"the answers of the task {others[0]!r} are open, and rl_checkpoint.reward.kind 'probability' and "
                "'forced_letter' and reward.control need a choice among letters: leave both at their defaults"
            )
        self.tool = calculator(tokenizer) if config.calculator else None
        self.stop: Stop = never
        """Once it returns true, sampling raises `Abandoned`."""
        self.seconds_rollout, self.seconds_scoring = 0.0, 0.0

    def collect(self, examples: Sequence[Example[A]], step: int) -> list[Group[A]]:
        """`group_size` completions of each example, shown anew for this step (for example with choices in another
        order).

        A completion depends only on (seed, step, example, index in its group), not on the ranks or the batch.
        """
        if not examples:
            return []
        config, started = self.config, time.monotonic()
        shown = [self.task.shown(e, row_key(config.seed, "options", step)) for e in examples]
        prompts = [render_prompt(self.tokenizer, e.messages) for e in shown]
        keys = [[row_key(config.seed, step, e.id, n) for n in range(config.group_size)] for e in shown]
        sampled = self.engine.generate(
            prompts, keys, config.max_new_tokens, config.temperature, max_rows=config.rollout_rows, tool=self.tool,
            stop=self.stop,
        )  # fmt: skip
        grading = time.monotonic()
        graded = with_format_bonus(self.reward, self.schedule.bonus(step))
        groups = [self._graded(e, ids, group, graded) for e, ids, group in zip(shown, prompts, sampled, strict=True)]
        if config.distills:
            room = self.engine.model.config.sequence_len - config.max_new_tokens
            groups = [replace(g, teacher_prompt=teacher_prompt(self.tokenizer, g.example, room)) for g in groups]
        kind = self.schedule.kind(step)
        if kind == "probability":
            groups = self._with_probabilities(groups)
        if kind == "forced_letter":
            groups = self._with_forced_letters(groups)
        if config.reward.control != "none":
            groups = [self._uninformed(group, row_keys) for group, row_keys in zip(groups, keys, strict=True)]
        self.seconds_rollout += grading - started
        self.seconds_scoring += time.monotonic() - grading
        return groups

    def resample_zero_variance(
        self, groups: list[Group[A]], step: int, replacement: Callable[[int, int], Example[A]]
    ) -> tuple[list[Group[A]], int]:
        """`groups`, with those without a signal replaced by groups of other examples, and the number of extra examples.

        This is the dynamic sampling of DAPO (Yu et al. 2025, arXiv 2503.14476), in up to `dynamic_sampling_rounds`
        rounds.

        `replacement(round, i)` returns the example that replaces that of group i.
        """
        groups, drawn = list(groups), 0
        for round_ in range(self.config.dynamic_sampling_rounds):
            zero_variance = [i for i, group in enumerate(groups) if not group.has_signal]
            asked = [replacement(round_, i) for i in zero_variance]
            drawn += len(asked)
            for i, group in zip(zero_variance, self.collect(asked, step), strict=True):
                groups[i] = group
        return groups, drawn

    def _graded(
        self, example: Example[A], ids: list[int], completions: list[Completion], graded: Reward[A]
    ) -> Group[A]:
        texts = [self.tokenizer.decode(c.content) for c in completions]
        grades = [graded(example, text, c.ended) for text, c in zip(texts, completions, strict=True)]
        budget, buffer = self.config.max_new_tokens, self.config.reward.overlong_tokens
        rewards = [
            grade.reward + overlong_penalty(c.n_sampled, budget, buffer)
            for grade, c in zip(grades, completions, strict=True)
        ]
        return Group(example, ids, completions, texts, grades, rewards)

    def _uninformed(self, group: Group[A], keys: Sequence[int]) -> Group[A]:
        """A control: the group with rewards that ignore the right answer."""
        rewards: list[float]
        if self.config.reward.control == "constant":
            constant = part_of(self.parts, group.example).task.categories[0]
            rewards = [float(grade.answer == constant) for grade in group.grades]
        else:
            chance = self.task.chance(group.example)
            rewards = to_list((uniform(torch.tensor(keys), _CONTROL_DRAW) < chance).float())
        return replace(group, rewards=rewards)

    def _with_probabilities(self, groups: list[Group[A]]) -> list[Group[A]]:
        """Rewards each well-formed answer with the probability of the right letter at its position, after the same
        rationale: the expectation over the last draw instead of its outcome."""
        ids_of = {
            part.name: dict(zip(part.task.categories, letter_ids(self.tokenizer, part.task), strict=True))
            for part in self.parts
        }
        contexts: list[list[int]] = []
        places: list[tuple[int, int]] = []
        for g, group in enumerate(groups):
            ids = ids_of[part_of(self.parts, group.example).name]
            for n, (grade, completion) in enumerate(zip(group.grades, group.completions, strict=True)):
                position = None if grade.answer is None else answer_position(completion.tokens, ids[grade.answer])
                if position is not None:
                    contexts.append([*group.prompt, *completion.tokens[:position]])
                    places.append((g, n))
        rewards = [list(group.rewards) for group in groups]
        if contexts:
            logits = logits_after(self.engine.model, contexts, self.config.micro_batch_rows)
            p_BV = torch.softmax(logits / self.config.temperature, dim=1)
            for (g, n), p_V in zip(places, p_BV, strict=True):
                group = groups[g]
                ids = ids_of[part_of(self.parts, group.example).name]
                rewards[g][n] += float(p_V[ids[group.example.reference]]) - float(group.grades[n].correct)
        return [replace(group, rewards=earned) for group, earned in zip(groups, rewards, strict=True)]

    def _with_forced_letters(self, groups: list[Group[A]]) -> list[Group[A]]:
        """Rewards each completion, in form or not, with the probability of the right letter among the question's
        letters after a forced cue that follows its solution."""
        config, found = self.config, list[Group[A]]()
        cues = {part.name: ForcedCue(self.tokenizer, part.task, part.task.name) for part in self.parts}
        for group in groups:
            cue, example = cues[part_of(self.parts, group.example).name], group.example
            contexts = [cue.context(group.prompt, cue.solution(c.content)) for c in group.completions]
            ids = cue.letter_ids[: len(example.choices)]
            logits_BL = letter_logits(self.engine.model, contexts, ids, config.micro_batch_rows)
            p_B = torch.softmax(logits_BL / config.temperature, dim=1)[:, ascii_uppercase.index(example.reference)]
            earned = zip(group.rewards, group.grades, to_list(p_B), strict=True)
            found.append(replace(group, rewards=[r - float(grade.correct) + p for r, grade, p in earned]))
        return found


def room_for_cue(config: RLConfig, tokenizer: Tokenizer, task: Task[Any]) -> int:
    """The tokens that the reward needs after a completion in the policy's context."""
    forced = config.reward.kind == "forced_letter" and task.categories
    return ForcedCue(tokenizer, task, task.name).n_tokens if forced else 0


def samples(groups: Sequence[Group[Any]], config: RLConfig) -> list[Sample]:
    """All completions with their advantages."""
    estimate = group_std if config.objective.advantage == "group_std" else mean_baseline
    return [
        Sample(group.prompt, completion.tokens, completion.logprobs, advantage, completion.forced, group.teacher_prompt)
        for group in groups
        for completion, advantage in zip(
            group.completions, to_list(estimate(torch.tensor([group.rewards]))[0]), strict=True
        )
    ]
