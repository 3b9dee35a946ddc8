"""A table of generated samples for people to read: a file in the run's records, and a table in W&B."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aquarat_core.tracking.context import RunContext
from aquarat_core.tracking.metrics import MetricLog

SAMPLES_FILE = "samples.jsonl"


class SampleTable:
    """Written by rank 0; a resumed run continues with the rows that were saved."""

    def __init__(self, ctx: RunContext, log: MetricLog, name: str, columns: Sequence[str]) -> None:
        """`name` is the table's name in W&B; every row has `columns`."""
        self.path, self._rank, self._log = Path(ctx.extras_dir, SAMPLES_FILE), ctx.rank, log
        self.name, self.columns = name, columns
        self.lines: list[str] = []

    def add(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows for that step; only rank 0 does."""
        self.lines += [json.dumps(row, ensure_ascii=False) for row in rows]
        self._write()
        self._log.table(step, self.name, self.columns, [[row[name] for name in self.columns] for row in rows])

    def _write(self) -> None:
        self.path.write_text("".join(f"{line}\n" for line in self.lines))

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.lines = list(state_dict["lines"])
        if self.lines and self._rank == 0:
            self._write()
