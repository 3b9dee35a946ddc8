"""Tables of samples for people to read: what was asked, what was said, how it was read and what it earned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aquarat_core.rl.rollouts import Group
from aquarat_core.tasks.aqua import prompt
from aquarat_core.training.metrics import MetricLog

SAMPLES_FILE = "samples.jsonl"
PER_STEP = 8
"""Completions written down of a step: two of each of its first groups, the best and the worst paid."""
COLUMNS = ("step", "prompt", "completion", "parsed", "gold", "reward", "tokens", "ended")


def sample_rows(step: int, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Rows with `COLUMNS` of the first groups of a step."""
    rows = []
    for group in groups[: PER_STEP // 2]:
        order = sorted(range(len(group.rewards)), key=lambda i: -group.rewards[i])
        for i in (order[0], order[-1]):
            completion = group.completions[i]
            said = (step, prompt(group.question), group.texts[i], group.verdicts[i].letter, group.question.correct)
            values = (*said, group.rewards[i], len(completion.tokens), completion.ended)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


class SampleTable:
    """The table in a run's records and in W&B; a resumed run goes on with the rows that were saved."""

    def __init__(self, directory: Path, log: MetricLog) -> None:
        self.path, self.log = directory / SAMPLES_FILE, log
        self.lines: list[str] = []

    def add(self, step: int, groups: Sequence[Group]) -> None:
        """Write rows of these groups; rank 0 does."""
        rows = sample_rows(step, groups)
        self.lines += [json.dumps(row, ensure_ascii=False) for row in rows]
        self._write()
        self.log.table(step, "rl/samples", COLUMNS, [[row[name] for name in COLUMNS] for row in rows])

    def _write(self) -> None:
        self.path.write_text("".join(f"{line}\n" for line in self.lines))

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.lines = list(state_dict["lines"])
        if self.lines:
            self._write()
