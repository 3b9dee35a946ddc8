"""Tables of samples for people to read: prompt, completion, parsed answer and reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aquarat_core.rl.rollouts import Group

PER_STEP = 8
"""Number of completions recorded per step: the best and the worst rewarded of each of its first groups."""
COLUMNS = ("step", "prompt", "completion", "parsed", "gold", "reward", "tokens", "ended")


def sample_rows(step: int, groups: Sequence[Group[Any]]) -> list[dict[str, Any]]:
    """Rows with `COLUMNS` for the first groups of a step."""
    rows: list[dict[str, Any]] = []
    for group in groups[: PER_STEP // 2]:
        order = sorted(range(len(group.rewards)), key=lambda i: -group.rewards[i])
        for i in (order[0], order[-1]):
            completion = group.completions[i]
            grade, example = group.grades[i], group.example
            said = (step, example.prompt, group.texts[i], grade.answer, example.reference)
            values = (*said, group.rewards[i], len(completion.tokens), completion.ended)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
