"""A row of the stage table."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel

from aquarat_core.config import Profile
from aquarat_core.tasks.registry import DATASETS, OTHER_DATASET

if TYPE_CHECKING:
    from aquarat_core.stages.base import Scalar, StageContext

Kind = Literal["dataset", "tokenizer", "checkpoint", "report", "release"]


EVAL_BUNDLE = "eval_bundle"
"""The asset with the questions of CORE."""
TEXT_PASSES = "aquarat_core.stages.text_passes:leave_out"
"""What pretrain_text looks up if its config leaves out duplicates or held-out questions."""
CORE_QUESTIONS = "aquarat_core.evaluation.core.questions:core_questions"
"""What it looks up if these are the questions of CORE."""
OPTIONAL_INPUTS = frozenset({*DATASETS, OTHER_DATASET, EVAL_BUNDLE})
"""Inputs that a stage only needs if its config names a task or another data set in them, or asks for CORE."""


def all_datasets(config: Any) -> Iterable[str]:
    """The data sets of a stage whose data sets do not depend on tasks."""
    return OPTIONAL_INPUTS


def no_tasks(config: Any) -> Iterable[str]:
    """The tasks of a stage that imports everything it uses by name."""
    return ()


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: the function that runs it, its inputs, how it is started, and how Dagster shows its asset."""

    name: str
    """Name of the stage and of its asset."""
    kind: Kind
    """Kind of its artifact."""
    description: str
    inputs: tuple[str, ...]
    section: str | None
    """Field of `Profile` with its config; None for a stage without settings."""
    entry: str
    """`module:function`, imported only where the stage runs."""
    group: str
    """The group under which the UI shows the asset."""
    kinds: tuple[str, ...]
    """Dagster's kinds, which select the icons of the asset in the UI."""
    how: str = ""
    """How the stage makes its artifact, in a sentence or two for the asset's page."""
    distributed: bool = False
    """True if torchrun starts it, on `launch.nproc` ranks."""
    tasks: Callable[[Any], Iterable[str]] = no_tasks
    """Entries `module:name` of the tasks that the stage uses under a config and looks up in a table instead of
    importing; its code version includes them."""

    datasets: Callable[[Any], Iterable[str]] = all_datasets
    """Which of `OPTIONAL_INPUTS` the stage reads under a config."""

    def load(self) -> Callable[[StageContext], dict[str, Scalar]]:
        """The stage function, `run(ctx) -> summary metrics`."""
        return load(self.entry)

    def config(self, profile: Profile) -> BaseModel | None:
        """This stage's section of `profile`."""
        return profile.section(self.section) if self.section else None

    def needs(self, config: BaseModel | None) -> tuple[str, ...]:
        """The inputs that are read under this config: the data sets of its tasks, and all inputs that are not
        optional."""
        read = set(self.datasets(config))
        return tuple(name for name in self.inputs if name in read or name not in OPTIONAL_INPUTS)

    def config_type(self) -> type[BaseModel] | None:
        """The pydantic type of its section."""
        return cast("type[BaseModel] | None", Profile.model_fields[self.section].annotation if self.section else None)


def load(entry: str) -> Any:
    """Imports the module of an entry `module:name`, and returns the object with that name."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def module_of(entry: str) -> str:
    """The module in an entry `module:name`."""
    return entry.partition(":")[0]
