"""All tasks by name. A task's module is imported only when the task is needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aquarat_core.config.validation import did_you_mean
from aquarat_core.errors import DataError
from aquarat_core.tasks.task import Task

if TYPE_CHECKING:
    from aquarat_core.config import TaskDefinition

TASKS = {
    "aqua": "aquarat_core.tasks.aqua.task:AquaTask",
    "arc": "aquarat_core.tasks.arc:ArcTask",
    "arc_challenge": "aquarat_core.tasks.arc:arc_challenge",
    "arc_easy": "aquarat_core.tasks.arc:arc_easy",
    "gsm8k": "aquarat_core.tasks.gsm8k:Gsm8kTask",
    "humaneval": "aquarat_core.tasks.humaneval:HumanEvalTask",
    "mmlu": "aquarat_core.tasks.mmlu:MmluTask",
    "spelling": "aquarat_core.tasks.spelling:SpellingTask",
}
"""`module:maker` of every built-in task."""
KINDS = {
    "code": "aquarat_core.tasks.defined_code:code",
    "module": "aquarat_core.tasks.own_code:own_task",
    "multiple_choice": "aquarat_core.tasks.defined:multiple_choice",
    "numeric": "aquarat_core.tasks.defined:numeric",
    "short_text": "aquarat_core.tasks.defined:short_text",
}
"""`module:maker` of the tasks that profiles define, by kind."""
DATASETS = {"aqua_dataset": "aqua"}
"""Assets that each hold the examples of one task."""
OTHER_DATASET = "chat_datasets"
"""The asset that holds the examples of all other tasks, in files named after them."""
SOURCES_FILE = "sources.json"
"""The file in which `OTHER_DATASET` describes its sources; for a task from the profile, with facts about its rows."""


def load_task(name: str) -> Task[Any]:
    """The built-in task with that name. Raises `DataError` if there is none."""
    if name not in TASKS:
        hint = did_you_mean(name, TASKS)
        raise DataError(f"there is no task {name!r}: {hint}the tasks are {', '.join(sorted(TASKS))}")
    return _maker(TASKS[name])()


def defined_task(name: str, definition: TaskDefinition, facts: Mapping[str, Any]) -> Task[Any]:
    """A task that a profile defines; `facts` are the facts that `chat_datasets` found out about its rows."""
    return _maker(KINDS[definition.kind])(name, definition, facts)


def entry_of(name: str, definitions: Mapping[str, TaskDefinition]) -> str:
    """The entry `module:maker` of a task."""
    return KINDS[definitions[name].kind] if name in definitions else TASKS[name]


def dataset_of(name: str) -> str:
    """The asset with the examples of a task."""
    return next((asset for asset, task in DATASETS.items() if task == name), OTHER_DATASET)


def _maker(entry: str) -> Callable[..., Task[Any]]:
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)
