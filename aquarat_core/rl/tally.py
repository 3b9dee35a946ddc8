"""Computes a step's metrics from its graded completions: sums that ranks add up, then shares and means."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from aquarat_core.rl.rollouts import Group
from aquarat_core.rl.task_mixture import part_of, parts_of
from aquarat_core.runtime.distributed import World
from aquarat_core.tasks.task import Task

ANSWER, NOTE = "answer/", "note/"
"""Prefixes of the task's own sums: how often each answer was given, and the notes of its grades."""
SUMS = (
    "completions", "tokens", "reward", "reward_squared", "right", "tokens_right", "parsed", "truncated", "repeated",
    "given", "groups", "solved_none", "solved_some", "solved_all", "zero_variance",
)  # fmt: skip
"""The sums that every task has."""
LETTER = "rl/letter_"
"""Prefix of an answer's name: its share of all well-formed answers."""


def count(groups: Iterable[Group[Any]]) -> dict[str, float]:
    """Sums over the completions of `groups`."""
    sums: defaultdict[str, float] = defaultdict(float)
    for group in groups:
        right = [grade.correct for grade in group.grades]
        lengths = [c.n_sampled for c in group.completions]
        sums["completions"] += len(right)
        sums["tokens"] += sum(lengths)
        sums["given"] += sum(len(c.forced) for c in group.completions)
        sums["reward"] += sum(group.rewards)
        sums["reward_squared"] += sum(r * r for r in group.rewards)
        sums["right"] += sum(right)
        sums["tokens_right"] += sum(n for n, r in zip(lengths, right, strict=True) if r)
        sums["truncated"] += sum(not c.ended for c in group.completions)
        sums["repeated"] += len(group.texts) - len(set(group.texts))
        sums["groups"] += 1
        sums["solved_none"] += not any(right)
        sums["solved_all"] += all(right)
        sums["solved_some"] += any(right) and not all(right)
        sums["zero_variance"] += not group.has_signal
        answers = Counter(grade.answer for grade in group.grades if grade.answer is not None)
        sums["parsed"] += answers.total()
        for answer, n in answers.items():
            sums[f"{ANSWER}{answer}"] += n
        for grade in group.grades:
            for note, value in grade.notes.items():
                sums[f"{NOTE}{note}"] += value
    return dict(sums)


def all_reduce(sums: Mapping[str, float], task: Task[Any], world: World) -> dict[str, float]:
    """`sums` added up over all ranks: those that every task has, and those that `task` names."""
    own = (*(f"{NOTE}{note}" for note in task.notes), *(f"{ANSWER}{answer}" for answer in task.categories))
    # Ranks see different answers, so the vector must have the same names in the same order on each of them.
    names = (*SUMS, *own)
    vector = torch.tensor([float(sums.get(name, 0)) for name in names], dtype=torch.float64, device=world.device)
    return dict(zip(names, world.totals(vector), strict=True))


PER_TASK = ("rl/acc", "rl/mean_reward", "rl/parse_rate", "rl/truncated_rate", "rl/zero_variance_groups", LETTER)
"""Prefixes of the metrics that are also measured for each of several tasks."""


def step_metrics(groups: Sequence[Group[Any]], task: Task[Any], world: World) -> dict[str, float]:
    """A step's metrics over all ranks, from this rank's groups; for a mixture also those of each task, under its
    name."""
    metrics = summarize(all_reduce(count(groups), task, world))
    parts = parts_of(task)
    for part in parts if len(parts) > 1 else ():
        mine = [group for group in groups if part_of(parts, group.example) == part]
        own = summarize(all_reduce(count(mine), part.task, world))
        metrics |= {f"{name}{part.suffix}": value for name, value in own.items() if name.startswith(PER_TASK)}
    return metrics


def summarize(sums: Mapping[str, float]) -> dict[str, float]:
    """The step's metrics from the sums over all ranks. Lengths count tokens that the policy sampled, including the
    stop token."""
    n, groups, right = sums["completions"], sums["groups"], sums["right"]
    mean = sums["reward"] / n
    notes = {name.removeprefix(NOTE): value for name, value in sums.items() if name.startswith(NOTE)}
    answers = {name.removeprefix(ANSWER): value for name, value in sums.items() if name.startswith(ANSWER)}
    metrics = {
        "rl/acc": right / n,
        "rl/mean_reward": mean,
        "rl/reward_std": max(sums["reward_squared"] / n - mean**2, 0.0) ** 0.5,
        "rl/parse_rate": sums["parsed"] / n,
        **{f"rl/{note}_rate": value / n for note, value in notes.items()},
        "rl/truncated_rate": sums["truncated"] / n,
        "rl/stop_token_rate": 1 - sums["truncated"] / n,
        "rl/repeated_rate": sums["repeated"] / n,
        "rl/completion_length_mean": sums["tokens"] / n,
        "rl/given_tokens_mean": sums["given"] / n,
        "rl/solved_none": sums["solved_none"] / groups,
        "rl/solved_some": sums["solved_some"] / groups,
        "rl/solved_all": sums["solved_all"] / groups,
        "rl/zero_variance_groups": sums["zero_variance"] / groups,
        **{f"{LETTER}{answer}": value / max(sums["parsed"], 1) for answer, value in answers.items()},
    }
    if right:
        metrics["rl/length_right_mean"] = sums["tokens_right"] / right
    if right < n:
        metrics["rl/length_wrong_mean"] = (sums["tokens"] - sums["tokens_right"]) / (n - right)
    return metrics
