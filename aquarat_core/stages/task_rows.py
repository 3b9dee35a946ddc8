"""Reads, checks and splits the rows of a task that a profile defines, for `chat_datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aquarat_core.config import TaskConfig
from aquarat_core.config.locations import HubRows
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.locations import RowReader
from aquarat_core.errors import DataError
from aquarat_core.tasks.defined import example_of, has_solutions, id_of, renamed
from aquarat_core.tasks.defined_code import program_example
from aquarat_core.tasks.own_code import OwnTask, TaskCodeError
from aquarat_core.tasks.registry import defined_task
from aquarat_core.tasks.splits import HELD_OUT, hold_out, sampled, without_leaks
from aquarat_core.tasks.task import Example

Log = Callable[[str], None]
TRIED = 1_000
"""Rows per split on which all methods of a module are tested; every row's target is graded."""
WARN_NEAR = 0.01
"""A warning is given if at least this share of training questions is similar to held-out ones."""


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The examples of a task by split, and their entry in `sources.json`."""

    splits: dict[str, list[Example[Any]]]
    described: dict[str, Any]
    dropped: int
    """Bad rows that were left out."""


def read_task(config: TaskConfig, log: Log) -> TaskRows:
    """Read the rows of all splits.

    Raises `DataError` for a bad row if the config says so, and for a split without rows; and `TaskCodeError` for a
    module that fails on a row, because the stages that train and grade come much later.
    """
    reader = _Reader(config, log)
    given = {"train": config.train, "validation": config.validation, "test": config.test}
    splits = {split: list(reader.examples(split, place)) for split, place in given.items() if place is not None}
    wanted = {split: getattr(config, f"n_{split}") for split in HELD_OUT if split not in splits}
    splits |= hold_out(splits["train"], wanted, config.seed)
    splits, leaks = without_leaks(splits)
    where = f"tasks.{config.name}"
    if leaks.same:
        log(f"{where}: {leaks.same:,} training questions are left out, because they are also in a held-out split")
    if leaks.near > WARN_NEAR * len(splits["train"]):
        log(
            f"warning: {where}: {leaks.near:,} of {len(splits['train']):,} training questions are similar to held-out "
            "ones (sources.json names some): scores on those may come from memory"
        )
    kept = {split: sampled(found, getattr(config, f"n_{split}"), config.seed) for split, found in splits.items()}
    if said := reader.bad.summary():
        log(said)
    for split, found in kept.items():
        if not found and getattr(config, f"n_{split}") != 0:
            raise DataError(f"{where}: {reader.why_none(split, wanted, leaks.same)}")
    reader.warn_of_unpaid()
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
    """Converts rows to examples of one task, and records the bad ones."""

    def __init__(self, config: TaskConfig, log: Log) -> None:
        self.config, self.log = config, log
        self.bad = BadRows(f"task {config.name}", f"tasks.{config.name}", config.on_bad_row)
        self.described: dict[str, Any] = {}
        self._task = defined_task(config.name, config.definition, {"letters": 0})
        self._solutions: bool | None = None
        self._good: dict[str, int] = {}
        """Number of rows that became examples, by split."""
        self._unpaid = 0
        """Number of a module's examples whose target earns less than 1."""

    def examples(self, split: str, location: str | HubRows) -> Iterator[Example[Any]]:
        """The examples of a location, each with a unique id."""
        reader = RowReader(location, self.bad, self.log)
        seen: set[str] = set()
        columns: set[str] = set()
        for number, row in enumerate(reader.rows()):
            columns |= row.values.keys()
            try:
                example = self._example(row.values, f"{split}-{number:06d}")
                if example.id in seen:
                    raise DataError(f"the id {example.id[:80]!r} is not unique")
                self._try(example, whole=len(seen) < TRIED)
            except DataError as e:
                self.bad.add_at(row.where, str(e))
                continue
            except TaskCodeError as e:
                raise TaskCodeError(f"{row.where}: {e}") from e
            seen.add(example.id)
            yield example
        self._check_columns(reader.where, columns)
        self._good[split] = len(seen)
        self.described[split] = reader.described()

    def why_none(self, split: str, wanted: Mapping[str, int], leaked: int) -> str:
        """What to do about a split without rows; `wanted` are the numbers of rows to hold out of training."""
        good, first = self._good.get(split, self._good["train"]), ""
        if self.bad.rows:
            first = f" (the first bad one is {self.bad.rows[0].row}: {self.bad.rows[0].reason})"
        if not good:
            return f"no row of {split} can be used{first}. Repair the data set, or name another"
        if split == "train" and leaked:
            return (
                f"all {good:,} training questions that are not held out are also in a held-out split, so none is left "
                "to train on. Name different rows under train, validation and test"
            )
        held = " and ".join(f"n_{name} {n:,}" for name, n in wanted.items())
        return f"of {good:,} good rows, {held} leave none to train on{first}: lower them, or give more rows"

    def warn_of_unpaid(self) -> None:
        """Warns about targets that a module does not pay in full: RL refuses to start if there are more than a few."""
        if self._unpaid:
            self.log(
                f"warning: tasks.{self.config.name}: grade gives {self._unpaid:,} of {sum(self._good.values()):,} "
                "targets a reward below 1, and RL does not start if that is more than one in a hundred"
            )

    def _check_columns(self, where: str, there: set[str]) -> None:
        """Raises `DataError` for a column of the config that no row has. Single rows may lack optional columns."""
        for ours, theirs in self.config.columns.items():
            missing = sorted({theirs} - there) if isinstance(theirs, str) else sorted({*theirs} - there)
            if there and missing:
                raise DataError(
                    f"{where}: no row has the column {missing[0]!r} (tasks.{self.config.name}.columns.{ours}); there "
                    f"are {', '.join(sorted(there))[:400]}"
                )

    def _example(self, values: dict[str, Any], name: str) -> Example[Any]:
        if isinstance(self._task, OwnTask):
            return self._task.example(values, name)
        if self.config.kind == "code":
            found = renamed(values, self.config)
            return program_example(found, id_of(found, name))
        if self._solutions is None:
            self._solutions = has_solutions(values, self.config)
        return example_of(values, name, self.config, self._solutions)

    def _try(self, example: Example[Any], whole: bool) -> None:
        """Grade the example's target; with `whole`, also call the other methods of a module that later stages call.

        Raises `DataError` for a target that is graded as wrong, and `TaskCodeError`.
        """
        if self.config.kind == "code":
            return  # Grading runs programs in a sandbox, which this stage's host may not have.
        task, said = self._task, example.target
        grade = task.grade(example, task.answer_text(example.reference) if said is None else said, True)
        if not isinstance(task, OwnTask):
            if not grade.correct:
                raise DataError(
                    f"its solution is not graded as right: it does not end in {task.answer_form}, or announces more "
                    "than one answer"
                )
            return
        self._unpaid += grade.reward < 1.0
        if whole:
            shown = task.shown(example, self.config.seed)
            task.chance(shown)
            task.is_permutable(example)
            for attempt in task.worthless(shown).values():
                task.grade(shown, attempt.text, attempt.ended)
            for answer in (shown.reference, *task.categories):
                task.answer_text(answer)
