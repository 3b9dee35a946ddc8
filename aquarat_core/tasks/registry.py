"""The tasks there are, by name. A task's module is imported only when the task is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from aquarat_core.errors import DataError
from aquarat_core.tasks.task import Task

TASKS = {
    "aqua": "aquarat_core.tasks.aqua.task:AquaTask",
    "gsm8k": "aquarat_core.tasks.gsm8k:Gsm8kTask",
    "spelling": "aquarat_core.tasks.spelling:SpellingTask",
    "humaneval": "aquarat_core.tasks.humaneval:HumanEvalTask",
}
"""`module:class` of every built-in task."""
DATASETS = {"aqua_dataset": "aqua"}
"""Assets that hold the examples of one task."""


def load_task(name: str) -> Task[Any]:
    """The task of that name. Raises `DataError` if there is none."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"there is no task {name!r}: {hint}the tasks are {', '.join(sorted(TASKS))}")
    module, cls = TASKS[name].split(":")
    return getattr(importlib.import_module(module), cls)()
