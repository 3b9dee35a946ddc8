"""One step's questions, sampled and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from aquarat_core.config import RLConfig
from aquarat_core.rl.advantage import centred, group_std
from aquarat_core.rl.letters import answer_position, letter_ids, logits_after
from aquarat_core.rl.reward import Verdict, judge, overlong_penalty
from aquarat_core.rl.scoring import Sample
from aquarat_core.rollout.batch import Completion
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key, uniform
from aquarat_core.rollout.tools import calculator
from aquarat_core.tasks.aqua.question import Question, permute, prompt
from aquarat_core.tasks.choice import LETTERS
from aquarat_core.text.chat import render_prompt
from aquarat_core.text.tokenizer import Tokenizer
from aquarat_core.training.stopped import Stop, never

_CONTROL_DRAW = 1 << 40
"""A position that no token is drawn at."""


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one question as they were judged."""

    question: Question
    """With its options in the order that was shown."""
    prompt: list[int]
    completions: list[Completion]
    texts: list[str]
    verdicts: list[Verdict]
    rewards: list[float]
    """What is trained on: the verdicts' rewards, with what the config adds."""

    @property
    def tells(self) -> bool:
        """Whether the rewards differ: otherwise there is no gradient in the group."""
        return len(set(self.rewards)) > 1


class Sampler:
    """Samples and judges groups with the policy of `engine`."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, config: RLConfig) -> None:
        self.engine, self.tokenizer, self.config = engine, tokenizer, config
        self.tool = calculator(tokenizer) if config.calculator else None
        self.stop: Stop = never
        """Gives sampling up, with `Abandoned`, once it is true."""
        self.seconds_rollout, self.seconds_scoring = 0.0, 0.0

    def groups(self, questions: Sequence[Question], step: int) -> list[Group]:
        """`group_size` completions of each question, options permuted anew for this step.

        A completion depends on (seed, step, question, number in its group) alone: neither the ranks nor the batch
        change it.
        """
        if not questions:
            return []
        config, started = self.config, time.monotonic()
        shown = [permute(q, row_key(config.seed, "options", step)) for q in questions]
        prompts = [render_prompt(self.tokenizer, [{"role": "user", "content": prompt(q)}]) for q in shown]
        keys = [[row_key(config.seed, step, q.id, n) for n in range(config.group_size)] for q in shown]
        sampled = self.engine.generate(
            prompts, keys, config.max_new_tokens, config.temperature, max_rows=config.rollout_rows, tool=self.tool,
            stop=self.stop,
        )  # fmt: skip
        judging = time.monotonic()
        groups = [self._judged(q, ids, group) for q, ids, group in zip(shown, prompts, sampled, strict=True)]
        if config.reward.kind == "probability":
            groups = self._with_probabilities(groups)
        if config.reward.control != "none":
            groups = [self._uninformed(group, row_keys) for group, row_keys in zip(groups, keys, strict=True)]
        self.seconds_rollout += judging - started
        self.seconds_scoring += time.monotonic() - judging
        return groups

    def telling_groups(
        self, groups: list[Group], step: int, replacement: Callable[[int, int], Question]
    ) -> tuple[list[Group], int]:
        """`groups` with those that tell nothing replaced by other questions', up to `refill_rounds` times, and how
        many were sampled for it (dynamic sampling, DAPO, Yu et al. 2025, arXiv 2503.14476).

        `replacement(round, i)` names the question that takes the place of group i.
        """
        groups, drawn = list(groups), 0
        for round_ in range(self.config.refill_rounds):
            silent = [i for i, group in enumerate(groups) if not group.tells]
            asked = [replacement(round_, i) for i in silent]
            drawn += len(asked)
            for i, group in zip(silent, self.groups(asked, step), strict=True):
                groups[i] = group
        return groups, drawn

    def _judged(self, q: Question, ids: list[int], completions: list[Completion]) -> Group:
        config = self.config.reward
        texts = [self.tokenizer.decode(c.said) for c in completions]
        verdicts = [
            judge(text, c.ended, q.correct, config.format_bonus) for text, c in zip(texts, completions, strict=True)
        ]
        budget, buffer = self.config.max_new_tokens, config.overlong_tokens
        rewards = [
            v.reward + overlong_penalty(c.n_chosen, budget, buffer) for v, c in zip(verdicts, completions, strict=True)
        ]
        return Group(q, ids, completions, texts, verdicts, rewards)

    def _uninformed(self, group: Group, keys: Sequence[int]) -> Group:
        """A control: what the group earns from a reward that does not know the right letter."""
        if self.config.reward.control == "constant":
            rewards = [float(v.letter == LETTERS[0]) for v in group.verdicts]
        else:
            rewards = (uniform(torch.tensor(keys), _CONTROL_DRAW) < 1 / len(LETTERS)).float().tolist()
        return replace(group, rewards=rewards)

    def _with_probabilities(self, groups: list[Group]) -> list[Group]:
        """Pays each well-formed answer the probability of the right letter in its place, after the same rationale: the
        expectation over the last draw instead of its outcome."""
        ids = letter_ids(self.tokenizer)
        contexts, places = [], []
        for g, group in enumerate(groups):
            for n, (verdict, completion) in enumerate(zip(group.verdicts, group.completions, strict=True)):
                said = verdict.letter and answer_position(completion.tokens, ids[LETTERS.index(verdict.letter)])
                if said is not None:
                    contexts.append([*group.prompt, *completion.tokens[:said]])
                    places.append((g, n))
        rewards = [list(group.rewards) for group in groups]
        if contexts:
            logits = logits_after(self.engine.model, contexts, self.config.micro_batch_rows)
            p_BV = torch.softmax(logits / self.config.temperature, dim=1)
            for (g, n), p_V in zip(places, p_BV, strict=True):
                group = groups[g]
                earned = float(group.verdicts[n].letter == group.question.correct)
                rewards[g][n] += float(p_V[ids[group.question.gold]]) - earned
        return [replace(group, rewards=earned) for group, earned in zip(groups, rewards, strict=True)]


def samples(groups: Sequence[Group], config: RLConfig) -> list[Sample]:
    """Every completion with its advantage."""
    estimate = group_std if config.objective.advantage == "group_std" else centred
    return [
        Sample(group.prompt, completion.tokens, completion.logprobs, advantage, completion.given)
        for group in groups
        for completion, advantage in zip(
            group.completions, estimate(torch.tensor([group.rewards]))[0].tolist(), strict=True
        )
    ]
