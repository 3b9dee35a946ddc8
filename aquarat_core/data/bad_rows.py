"""One rule for unusable rows of any data set: either they raise an error, or they are left out, counted and named."""

from __future__ import annotations

from dataclasses import dataclass, field

from aquarat_core.errors import DataError

MAX_NAMED = 1_000
"""Number of bad rows that are named; further ones are only counted."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out."""

    row: str
    """`split-000012`: the split or file, and the row's number in it; or `train.jsonl, line 12`."""
    reason: str


@dataclass(slots=True)
class BadRows:
    """The bad rows of one data set."""

    source: str
    """The data set, for messages."""
    section: str
    """The section of the profile whose `on_bad_row` is `rule`."""
    rule: str
    """`error` or `drop`."""
    rows: list[BadRow] = field(default_factory=list)
    count: int = 0

    def add(self, split: str, number: int, reason: str) -> None:
        """Record one row. Raises `DataError` that names it if the rule is `error`."""
        self._add(f"{self.source}, split {split}, row {number}", f"{split}-{number:06d}", reason)

    def add_at(self, where: str, reason: str) -> None:
        """Record the row at `where`, such as `train.jsonl, line 12`, as `add` does."""
        self._add(f"{where} (of {self.source})", where, reason)

    def _add(self, shown: str, row: str, reason: str) -> None:
        if self.rule == "error":
            raise DataError(
                f"{shown}: {reason}. "
                f"Set {self.section}.on_bad_row to 'drop' to leave such rows out, or repair the data set"
            )
        self.count += 1
        if len(self.rows) < MAX_NAMED:
            self.rows.append(BadRow(row, reason))

    def summary(self) -> str | None:
        """One line for the log; None if there were none."""
        if not self.count:
            return None
        first = self.rows[0]
        return f"{self.source}: {self.count:,} bad rows left out; the first is {first.row}: {first.reason}"
