"""A step's figures from its judged completions: sums that ranks add up, then shares and means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import torch

from aquarat_core.rl.rollouts import Group
from aquarat_core.tasks.choice import LETTERS
from aquarat_core.training.distributed import World

SUMS = (
    "completions", "tokens", "reward", "reward_squared", "right", "tokens_right", "parsed", "ambiguous", "truncated",
    "repeated", "given", "groups", "solved_none", "solved_some", "solved_all", "zero_variance", *LETTERS,
)  # fmt: skip
"""What is summed, in the order of the vector that travels between ranks."""


def count(groups: Iterable[Group]) -> Counter[str]:
    """Sums over the completions of `groups`."""
    sums: Counter[str] = Counter()
    for group in groups:
        right = [v.letter == group.question.correct for v in group.verdicts]
        lengths = [c.n_chosen for c in group.completions]
        sums["completions"] += len(right)
        sums["tokens"] += sum(lengths)
        sums["given"] += sum(len(c.given) for c in group.completions)
        sums["reward"] += sum(group.rewards)
        sums["reward_squared"] += sum(r * r for r in group.rewards)
        sums["right"] += sum(right)
        sums["tokens_right"] += sum(n for n, r in zip(lengths, right, strict=True) if r)
        sums["ambiguous"] += sum(v.ambiguous for v in group.verdicts)
        sums["truncated"] += sum(not c.ended for c in group.completions)
        sums["repeated"] += len(group.texts) - len(set(group.texts))
        sums["groups"] += 1
        sums["solved_none"] += not any(right)
        sums["solved_all"] += all(right)
        sums["solved_some"] += any(right) and not all(right)
        sums["zero_variance"] += not group.tells
        letters = Counter(v.letter for v in group.verdicts if v.letter)
        sums["parsed"] += letters.total()
        sums.update(letters)
    return sums


def over_ranks(sums: Mapping[str, float], world: World) -> dict[str, float]:
    """`sums` added up over all ranks."""
    vector = torch.tensor([float(sums.get(name, 0)) for name in SUMS], dtype=torch.float64, device=world.device)
    return dict(zip(SUMS, world.sum(vector).tolist(), strict=True))


def figures(sums: Mapping[str, float]) -> dict[str, float]:
    """The step's metrics from the sums over all ranks. Lengths are in tokens that the policy chose, the stop token
    included."""
    n, groups, right = sums["completions"], sums["groups"], sums["right"]
    mean = sums["reward"] / n
    found = {
        "rl/acc": right / n,
        "rl/mean_reward": mean,
        "rl/reward_std": max(sums["reward_squared"] / n - mean**2, 0.0) ** 0.5,
        "rl/parse_rate": sums["parsed"] / n,
        "rl/ambiguous_rate": sums["ambiguous"] / n,
        "rl/truncated_rate": sums["truncated"] / n,
        "rl/stop_token_rate": 1 - sums["truncated"] / n,
        "rl/repeated_rate": sums["repeated"] / n,
        "rl/completion_length_mean": sums["tokens"] / n,
        "rl/given_tokens_mean": sums["given"] / n,
        "rl/solved_none": sums["solved_none"] / groups,
        "rl/solved_some": sums["solved_some"] / groups,
        "rl/solved_all": sums["solved_all"] / groups,
        "rl/zero_variance_groups": sums["zero_variance"] / groups,
        **{f"rl/letter_{letter}": sums[letter] / max(sums["parsed"], 1) for letter in LETTERS},
    }
    if right:
        found["rl/length_right_mean"] = sums["tokens_right"] / right
    if right < n:
        found["rl/length_wrong_mean"] = (sums["tokens"] - sums["tokens_right"]) / (n - right)
    return found
