"""The texts of CORE's questions, as they are searched for in pretraining text."""

from __future__ import annotations

from pathlib import Path

from aquarat_core.evaluation.core.bundle import Bundle, CoreTask, Row


def core_questions(folder: Path) -> dict[str, str]:
    """The questions of the bundle in `folder`, without answers, by `core/<task>/<line>`.

    Raises `DataError` for files that cannot be used.
    """
    bundle = Bundle(folder)
    return {f"core/{task.label}/{row.line}": _text(task, row) for task in bundle.tasks for row in bundle.rows(task)}


def _text(task: CoreTask, row: Row) -> str:
    # The context of a schema becomes a sentence only together with its ending.
    return f"{row.contexts[row.gold]}{task.delimiter}{row.endings[0]}" if task.type == "schema" else row.contexts[0]
