"""The rows of a task that a profile defines, read, checked and divided into splits, for `chat_datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from aquarat_core.config import TaskConfig
from aquarat_core.config.locations import HubRows
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.locations import RowReader
from aquarat_core.errors import DataError
from aquarat_core.tasks.defined import example_of, has_solutions
from aquarat_core.tasks.own_code import OwnTask
from aquarat_core.tasks.registry import defined_task
from aquarat_core.tasks.splits import HELD_OUT, hold_out, sampled, without_leaks
from aquarat_core.tasks.task import Example

Log = Callable[[str], None]
WARN_NEAR = 0.01
"""From this share of training questions that are similar to held-out ones on, a warning says so."""


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The examples of a task by split, and their entry in `sources.json`."""

    splits: dict[str, list[Example[Any]]]
    described: dict[str, Any]
    dropped: int
    """Bad rows that were left out."""


def read_task(config: TaskConfig, log: Log) -> TaskRows:
    """Read the rows of all splits.

    Raises `DataError` for a bad row where the config says so, and where no training row is left.
    """
    reader = _Reader(config, log)
    given = {"train": config.train, "validation": config.validation, "test": config.test}
    splits = {split: list(reader.examples(split, place)) for split, place in given.items() if place is not None}
    wanted = {split: getattr(config, f"n_{split}") for split in HELD_OUT if split not in splits}
    splits |= hold_out(splits["train"], wanted, config.seed)
    splits, leaks = without_leaks(splits)
    where = f"tasks.{config.name}"
    if leaks.same:
        log(f"{where}: {leaks.same:,} training questions are asked in a held-out split too, and are left out")
    if leaks.near > WARN_NEAR * len(splits["train"]):
        log(
            f"warning: {where}: {leaks.near:,} of {len(splits['train']):,} training questions are similar to held-out "
            "ones (sources.json names some): scores on those may come from memory"
        )
    kept = {split: sampled(found, getattr(config, f"n_{split}"), config.seed) for split, found in splits.items()}
    if not kept["train"]:
        held = " and ".join(f"n_{split} {n:,}" for split, n in wanted.items()) or "the held-out splits"
        raise DataError(
            f"{where}: of {reader.read:,} rows, {reader.bad.count:,} of them bad, {held} leave none to train on: lower "
            "them, or give more rows"
        )
    if said := reader.bad.summary():
        log(said)
    options = [len(e.choices) for found in kept.values() for e in found]
    described = {
        "kind": config.kind,
        "letters": max(options, default=0),
        "read": reader.described,
        "bad_rows": [asdict(row) for row in reader.bad.rows],
        "leaks": asdict(leaks),
    }
    return TaskRows({split: found for split, found in kept.items() if found}, described, reader.bad.count)


class _Reader:
    """Reads rows as examples of one task, and notes the bad ones."""

    def __init__(self, config: TaskConfig, log: Log) -> None:
        self.config, self.log = config, log
        self.bad = BadRows(f"task {config.name}", f"tasks.{config.name}", config.on_bad_row)
        self.described: dict[str, Any] = {}
        self.read = 0
        self._own = None
        if config.kind == "module":
            task = defined_task(config.name, config.definition, {})
            assert isinstance(task, OwnTask), "a module makes a task of its own code"
            self._own = task
        self._solutions: bool | None = None

    def examples(self, split: str, location: str | HubRows) -> Iterator[Example[Any]]:
        """The examples of a location, each with an id of its own."""
        reader = RowReader(location, self.bad, self.log)
        seen: set[str] = set()
        for number, row in enumerate(reader.rows()):
            self.read += 1
            try:
                example = self._example(row.values, f"{split}-{number:06d}")
                if example.id in seen:
                    raise DataError(f"the id {example.id!r} is there already")
            except DataError as e:
                self.bad.add_at(row.where, str(e))
                continue
            seen.add(example.id)
            yield example
        self.described[split] = reader.described()

    def _example(self, values: dict[str, Any], name: str) -> Example[Any]:
        if self._own is not None:
            return self._own.example(values, name)
        if self._solutions is None:
            self._solutions = has_solutions(values, self.config)
        return example_of(values, name, self.config, self._solutions)
