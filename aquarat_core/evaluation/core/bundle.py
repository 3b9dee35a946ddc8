"""The files of an evaluation bundle: which tasks it has, and their rows, checked.

    core.yaml             the tasks: label, file, number of shots, type, delimiter
    eval_meta_data.csv    for each task the accuracy of guessing, among others
    eval_data/**/*.jsonl  the rows

Row types and their fields: `multiple_choice` has query, choices and gold, the index of the right choice; `schema` has
context_options, continuation and gold, the index of the right context; `language_modeling` has context and
continuation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast, get_args

from aquarat_core.artifacts.bounded import kind_of
from aquarat_core.artifacts.hashing import digest_file
from aquarat_core.config import strict_yaml
from aquarat_core.config.local_files import combined
from aquarat_core.data.row_files import Unusable, csv_rows, json_rows
from aquarat_core.errors import DataError
from aquarat_core.evaluation.core.tasks import BASELINES, BASELINES_VERSION
from aquarat_core.plain_text import one_line

TaskType = Literal["multiple_choice", "schema", "language_modeling"]
TASKS_FILE, METADATA_FILE, DATA_FOLDER = "core.yaml", "eval_meta_data.csv", "eval_data"
DELIMITER = " "
"""Between question and answer where core.yaml has no `continuation_delimiter`."""
MAX_SHOTS = 100
MAX_CHOICES = 26
"""They have letters in reports."""
_FIELDS: Mapping[TaskType, tuple[str, str]] = {
    "multiple_choice": ("query", "choices"),
    "schema": ("context_options", "continuation"),
    "language_modeling": ("context", "continuation"),
}
"""Where a row has its contexts and its endings."""


@dataclass(frozen=True, slots=True)
class Row:
    """A question: several endings of one context, or one ending of one or several contexts."""

    line: int
    """Of its file, from 1."""
    contexts: tuple[str, ...]
    endings: tuple[str, ...]
    gold: int
    """Index of the right ending or context."""


@dataclass(frozen=True, slots=True)
class CoreTask:
    """A task of a bundle."""

    label: str
    type: TaskType
    shots: int
    """Examples before each question."""
    delimiter: str
    """Text between context and ending."""
    file: str
    """In the bundle's folder, with `/` between the parts."""

    @property
    def baseline(self) -> float:
        """Accuracy of guessing in percent."""
        return BASELINES[self.label]


class Bundle:
    """A bundle in a folder. Raises `DataError`, here and when rows are read, for files that cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        named = _tasks(folder / TASKS_FILE)
        self.tasks = tuple(task for task in named if (folder / task.file).is_file())
        """Those with data, in the order of core.yaml."""
        if not self.tasks:
            raise DataError(
                f"{folder}: no task of {TASKS_FILE} has its data in {DATA_FOLDER}/: the bundle is incomplete"
            )
        there, listed = {task.label for task in self.tasks}, {task.label: task.file for task in named}
        self.absent = {
            label: f"{listed[label]} is not there" if label in listed else f"not in {TASKS_FILE}"
            for label in BASELINES
            if label not in there
        }
        """Tasks of CORE that the bundle cannot give, with the reason."""
        self.other_baselines = _other_baselines(folder / METADATA_FILE)
        """What the bundle's metadata says of guessing where it differs from `BASELINES`, in percent by task."""

    @property
    def files(self) -> list[str]:
        """The bundle's files that count, by their names in the folder."""
        return [TASKS_FILE, METADATA_FILE, *sorted({task.file for task in self.tasks})]

    @cached_property
    def sha256(self) -> str:
        """One hash for the names and bytes of `files`: the same for an archive and for its folder."""
        return combined([(name, digest_file(self.folder / name).sha256) for name in self.files])

    def rows(self, task: CoreTask) -> list[Row]:
        """All rows of a task. Raises `DataError` that names file and line of the first bad one."""

        def refuse(line: int, reason: str) -> None:
            raise DataError(f"{task.file}, line {line}: {reason}")

        with (self.folder / task.file).open("rb") as file:
            try:
                rows = [_row(task, line, values) for line, values in json_rows(file, None, refuse)]
            except Unusable as e:
                raise DataError(f"{task.file}: {e}") from None
        if len(rows) <= task.shots:
            raise DataError(
                f"{task.file} has {len(rows)} rows, too few for a question with {task.shots} examples before it "
                f"({TASKS_FILE}, {task.label})"
            )
        return rows


def _row(task: CoreTask, line: int, values: Mapping[str, Any]) -> Row:
    first, second = _FIELDS[task.type]
    gold: object = 0
    try:
        contexts = _texts(values, first, several=task.type == "schema")
        endings = _texts(values, second, several=task.type == "multiple_choice")
        n = len(contexts) * len(endings)
        if task.type != "language_modeling":
            gold = _field(values, "gold")
            if not isinstance(gold, int) or isinstance(gold, bool):
                raise DataError(f"gold is {kind_of(gold)}, not the index of the right one of {n}")
            if not 0 <= gold < n:
                raise DataError(f"gold is {gold}, and there are {n} to choose from, 0 to {n - 1}")
    except DataError as e:
        raise DataError(f"{task.file}, line {line}: {e}") from None
    return Row(line, contexts, endings, gold)


def _texts(values: Mapping[str, Any], name: str, *, several: bool) -> tuple[str, ...]:
    found = _field(values, name)
    if not several:
        if not isinstance(found, str):
            raise DataError(f"{name} is {kind_of(found)}, not a text")
        return (found,)
    texts = cast("list[object]", found) if isinstance(found, list) else []
    if not 2 <= len(texts) <= MAX_CHOICES:
        what = f"has {len(texts)} entries" if isinstance(found, list) else f"is {kind_of(found)}"
        raise DataError(f"{name} {what}, and a list of 2 to {MAX_CHOICES} texts is wanted")
    if wrong := [kind_of(text) for text in texts if not isinstance(text, str)]:
        raise DataError(f"{name} holds {wrong[0]}, and a list of texts is wanted")
    return tuple(cast("list[str]", texts))


def _field(values: Mapping[str, Any], name: str) -> object:
    if name not in values:
        raise DataError(f"it has no {name}")
    return values[name]


def _tasks(path: Path) -> list[CoreTask]:
    try:
        described: object = strict_yaml.load(path)
    except OSError:
        raise DataError(f"{path.parent}: there is no {TASKS_FILE}, so this is no evaluation bundle") from None
    entries: object = cast("dict[str, object]", described).get("icl_tasks") if isinstance(described, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{TASKS_FILE} has no list `icl_tasks`")
    tasks = [_task(i, entry) for i, entry in enumerate(cast("list[object]", entries), 1)]
    labels = [task.label for task in tasks]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise DataError(f"{TASKS_FILE} has the task {twice[0]} twice")
    return tasks


def _task(number: int, entry: object) -> CoreTask:
    fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    label, uri = fields.get("label"), fields.get("dataset_uri")
    type_ = next((t for t in get_args(TaskType) if t == fields.get("icl_task_type")), None)
    shots, delimiter = fields.get("num_fewshot"), fields.get("continuation_delimiter", DELIMITER)
    where = f"{TASKS_FILE}, task {number}"
    if not isinstance(label, str) or label not in BASELINES:
        raise DataError(f"{where}: {one_line(str(label)[:80])!r} is none of the tasks of CORE: {', '.join(BASELINES)}")
    if type_ is None:
        raise DataError(f"{where} ({label}): icl_task_type is none of {', '.join(get_args(TaskType))}")
    if isinstance(shots, list):  # One run for each entry; CORE is the first.
        shots = next(iter(cast("list[object]", shots)), None)
    if not isinstance(shots, int) or isinstance(shots, bool) or not 0 <= shots <= MAX_SHOTS:
        raise DataError(f"{where} ({label}): num_fewshot does not begin with a number from 0 to {MAX_SHOTS}")
    if not isinstance(delimiter, str):
        raise DataError(f"{where} ({label}): continuation_delimiter is {kind_of(delimiter)}, not a text")
    return CoreTask(label, type_, shots, delimiter, f"{DATA_FOLDER}/{_inside(uri, f'{where} ({label})')}")


def _inside(uri: object, where: str) -> PurePosixPath:
    """A path that leads to nothing outside of the folder that it is relative to."""
    path = PurePosixPath(uri) if isinstance(uri, str) else PurePosixPath()
    odd = not path.parts or path.is_absolute() or ".." in path.parts or any(c in str(path) for c in "\\\0:")
    if odd or path.suffix != ".jsonl":
        raise DataError(f"{where}: dataset_uri is not the path of a .jsonl file in {DATA_FOLDER}/")
    return path


def _other_baselines(path: Path) -> dict[str, float]:
    """What the metadata says of guessing in the tasks of CORE, in percent, where it is not what `BASELINES` says."""
    label, guessing = "Eval Task", "Random baseline"

    def refuse(line: int, reason: str) -> None:
        raise DataError(f"{METADATA_FILE}, line {line}: {reason}")

    found: dict[str, float] = {}
    try:
        with path.open("rb") as file:
            for line, row in csv_rows(file, (label, guessing), refuse):
                if row[label] in BASELINES:
                    try:
                        found[row[label]] = float(row[guessing])
                    except ValueError:
                        refuse(line, f"the {guessing} of {row[label]} is no number")
    except FileNotFoundError:
        raise DataError(f"{path.parent}: there is no {METADATA_FILE}, so this is no evaluation bundle") from None
    except Unusable as e:
        raise DataError(f"{METADATA_FILE}: {e}") from None
    return {name: value for name, value in found.items() if value != BASELINES[name]}


def baselines_sentence(other: Mapping[str, float]) -> str | None:
    """For the log: that the bundle's metadata has other baselines; None if it has not."""
    if not other:
        return None
    listed = ", ".join(f"{name} {value:g}" for name, value in other.items())
    return f"{METADATA_FILE} has other baselines ({listed}) than DataComp-LM {BASELINES_VERSION}, which are used"
