"""One step's questions, sampled and judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aquarat_core.config import RLConfig
from aquarat_core.rl.advantage import centred
from aquarat_core.rl.reward import judge
from aquarat_core.rl.scoring import Sample
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key
from aquarat_core.tasks.answers import LETTERS
from aquarat_core.tasks.aqua import Question, permute, prompt
from aquarat_core.text.chat import render_prompt
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Tally:
    """Sums over completions; tallies of ranks add up."""

    completions: int = 0
    tokens: int = 0
    reward: float = 0.0
    reward_squared: float = 0.0
    parsed: int = 0
    truncated: int = 0
    groups: int = 0
    all_right: int = 0
    all_wrong: int = 0
    letters: tuple[int, ...] = (0,) * len(LETTERS)

    def numbers(self) -> list[float]:
        """Every count in a fixed order, for a sum over ranks."""
        return [self.completions, self.tokens, self.reward, self.reward_squared, self.parsed, self.truncated,
                self.groups, self.all_right, self.all_wrong, *self.letters]  # fmt: skip

    @staticmethod
    def metrics(numbers: Sequence[float]) -> dict[str, float]:
        """The step's figures from summed `numbers`."""
        n, tokens, reward, squared, parsed, truncated, groups, right, wrong, *letters = numbers
        mean = reward / n
        shares = {f"rl/letter_{letter}": c / max(parsed, 1) for letter, c in zip(LETTERS, letters, strict=True)}
        return {
            "rl/reward_mean": mean,
            "rl/reward_std": max(squared / n - mean**2, 0.0) ** 0.5,
            "rl/parse_rate": parsed / n,
            "rl/truncated_rate": truncated / n,
            "rl/completion_length_mean": tokens / n,
            "rl/solved_all": right / groups,
            "rl/solved_none": wrong / groups,
            **shares,
        }


def sample_groups(
    engine: Engine, tokenizer: Tokenizer, questions: Sequence[Question], config: RLConfig, step: int
) -> tuple[list[Sample], Tally]:
    """`group_size` completions of each question, options permuted anew for this step, with their advantages.

    A completion depends on (seed, step, question, number in its group) alone: neither the ranks nor the batch
    change it.
    """
    shown = [permute(q, row_key(config.seed, "options", step)) for q in questions]
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": prompt(q)}]) for q in shown]
    keys = [[row_key(config.seed, step, q.id, n) for n in range(config.group_size)] for q in shown]
    groups = engine.generate(prompts, keys, config.max_new_tokens, config.temperature)
    samples: list[Sample] = []
    tally, letters = Tally(), Counter[str]()
    for q, ids, group in zip(shown, prompts, groups, strict=True):
        verdicts = [judge(tokenizer.decode(c.said), c.ended, q.correct) for c in group]
        rewards = torch.tensor([[v.reward for v in verdicts]])
        for completion, advantage in zip(group, centred(rewards)[0].tolist(), strict=True):
            samples.append(Sample(ids, completion.tokens, completion.logprobs, advantage))
        tally.completions += len(group)
        tally.tokens += sum(len(c.tokens) for c in group)
        tally.reward += float(rewards.sum())
        tally.reward_squared += float(rewards.square().sum())
        tally.parsed += sum(v.letter is not None for v in verdicts)
        tally.truncated += sum(not c.ended for c in group)
        tally.groups += 1
        tally.all_right += int(bool((rewards == 1).all()))
        tally.all_wrong += int(bool((rewards == 0).all()))
        letters.update(v.letter for v in verdicts if v.letter)
    tally.letters = tuple(letters[letter] for letter in LETTERS)
    return samples, tally
