"""Tasks that a profile defines: your own data set, with or without your own code."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator

from aquarat_core.config.fields import NonNegativeInt, PositiveInt, StrictModel
from aquarat_core.config.locations import RowLocation

MAIN_TASK = "task"
"""The name by which stages refer to the profile's own task, `Profile.task`."""
CORE = "core"
"""The name by which `pretrain_text.decontaminate` refers to all tasks of CORE."""
AQUA = "aqua"
UNNAMED_TASK = AQUA
"""The task of reports from before there were others, which do not name theirs."""
TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Kind = Literal["multiple_choice", "numeric", "short_text", "code", "module"]
COLUMNS: dict[str, tuple[str, ...]] = {
    "multiple_choice": ("id", "question", "options", "answer", "rationale"),
    "numeric": ("id", "question", "answer", "rationale"),
    "short_text": ("id", "question", "answer", "rationale"),
    "code": ("id", "prompt", "test", "entry_point", "solution"),
    "module": (),
}
"""The columns of each kind of task; `id`, `rationale` and `solution` may be missing."""
OPTIONAL_COLUMNS = frozenset({"id", "rationale", "solution"})


class TaskDefinition(StrictModel):
    """Decides how the examples of a task are shown and graded, wherever its rows are."""

    kind: Kind = "module"
    """A choice among 2 to 26 options, a number, a short text, code with tests, or your own module."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Numbers only: the largest relative error of a right answer; 0 requires equality."""
    module: str | None = None
    """A Python file with one class of the task protocol (docs/new_dataset.md), relative to the profile that names
    it."""
    code: str | None = None
    """The text of `module`, read from the file together with the profile; it travels with the job and is recorded."""

    @model_validator(mode="after")
    def _module_fits(self) -> TaskDefinition:
        if (self.kind == "module") != (self.module is not None):
            raise ValueError("a task needs a kind (multiple_choice, numeric, short_text or code) or a module, not both")
        if self.code is not None and self.module is None:
            raise ValueError("code is the text of a module, filled in from its file: name the file under module")
        if self.tolerance and self.kind != "numeric":
            raise ValueError(f"tolerance belongs to kind 'numeric', but this kind is {self.kind!r}: leave it out")
        return self


class TaskConfig(TaskDefinition):
    """A task and the location of its rows."""

    name: TaskName = "own"
    """Its name in files, mixtures and metrics; under `tasks`, the key is its name."""
    train: RowLocation
    """Location of the training rows: a path, a URL, or a split on the Hub."""
    validation: RowLocation | None = None
    """Location of the validation rows; null holds out `n_validation` rows of `train`, chosen by the hash of their
    question."""
    test: RowLocation | None = None
    """Location of the rows for the final evaluation; null holds out `n_test` rows of `train` in the same way."""
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict[str, str | tuple[str, ...]])
    """Names of columns that are called otherwise: ours and theirs, e.g. {question: stem}. Several columns are a
    list."""
    first_option: Annotated[int, Field(ge=0, le=1)] = 0
    """If an answer is the number of an option: the number of the first option."""
    n_train: PositiveInt | None = None
    """Rows kept of the training split; null keeps all."""
    n_validation: NonNegativeInt = 500
    """Rows kept of the validation split."""
    n_test: NonNegativeInt = 1_000
    """Rows kept of the test split."""
    on_bad_row: Literal["error", "drop"] = "error"
    """What to do with a row that cannot be used; dropped rows are counted and named."""
    seed: int = 4
    """Decides which rows are kept."""

    @model_validator(mode="after")
    def _columns_fit(self) -> TaskConfig:
        known = COLUMNS[self.kind]
        if self.kind == "module" and self.columns:
            raise ValueError("columns belong to tasks without code: a module reads the columns of its rows itself")
        if self.first_option and self.kind != "multiple_choice":
            raise ValueError(f"first_option belongs to kind 'multiple_choice', but this kind is {self.kind!r}")
        if wrong := sorted(set(self.columns) - set(known)):
            raise ValueError(f"columns: {', '.join(wrong)} unknown for kind {self.kind!r}, which has {known}")
        if self.name in (MAIN_TASK, AQUA, CORE):
            raise ValueError(f"your own task cannot be called {self.name!r}: choose another name")
        return self

    @property
    def definition(self) -> TaskDefinition:
        """The task without its rows."""
        return TaskDefinition(**{name: getattr(self, name) for name in TaskDefinition.model_fields})


def named_tasks(raw: Any) -> Any:
    """The raw fields of a profile with a `task` that is defined in place moved to `tasks`, under its name."""
    if not isinstance(raw, dict):
        return cast("object", raw)
    fields = cast("dict[str, Any]", raw)
    given: object = fields.get("tasks")
    if given is not None and not isinstance(given, dict):
        return fields
    tasks = dict(cast("dict[str, Any]", given or {}))
    for name, task in tasks.items():
        if isinstance(task, dict):
            tasks[name] = {"name": name, **cast("dict[str, Any]", task)}
            if tasks[name]["name"] != name:
                raise ValueError(
                    f"tasks.{name} has the name {tasks[name]['name']!r}: leave it out, the key is its name"
                )
    own: object = fields.get("task")
    if not isinstance(own, dict):
        return {**fields, "tasks": tasks}
    task = cast("dict[str, Any]", own)
    name = str(task.get("name", TaskConfig.model_fields["name"].default))
    if name in tasks:
        raise ValueError(f"there are two tasks called {name!r}, `task` and `tasks.{name}`: rename one of them")
    return {**fields, "task": name, "tasks": {**tasks, name: task}}
