"""The Python files that a profile's tasks name: read together with the profile, so exactly this text is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from aquarat_core.config.fields import ConfigError
from aquarat_core.config.locations import anchored
from aquarat_core.config.tasks import TaskConfig

MAX_BYTES = 64 << 10
"""Limit on the size, because the text is part of every config and manifest that the task affects."""


def with_code(fields: dict[str, Any], profile: Path) -> dict[str, Any]:
    """The fields of a profile's file with the text of each task's module, whose path is relative to the file.

    Raises `ConfigError` for a module that cannot be read, is too long or is not valid Python.
    """
    filled = dict(fields)
    if isinstance(task := fields.get("task"), dict):
        filled["task"] = _filled(cast("dict[str, Any]", task), "task", profile)
    if isinstance(tasks := fields.get("tasks"), dict):
        named = cast("dict[str, Any]", tasks)
        filled["tasks"] = {
            name: _filled(cast("dict[str, Any]", one), f"tasks.{name}", profile) if isinstance(one, dict) else one
            for name, one in named.items()
        }
    return filled


def _filled(task: dict[str, Any], field: str, profile: Path) -> dict[str, Any]:
    task = anchored(task, TaskConfig, profile.parent)
    module = task.get("module")
    if not isinstance(module, str) or task.get("code") is not None:
        return task
    path = profile.parent / module
    where = f"{profile}, {field}.module: {path}"
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as e:  # ValueError: not a possible path
        said = e.strerror if isinstance(e, OSError) else None
        raise ConfigError(f"{where} cannot be read: {said or e}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where} has {len(data):,} bytes, but a task's module may have at most {MAX_BYTES:,}")
    try:
        code = data.decode()
        compile(code, str(path), "exec", dont_inherit=True)
    except UnicodeDecodeError:
        raise ConfigError(f"{where} is not UTF-8 text") from None
    except (SyntaxError, ValueError) as e:
        line = f", line {e.lineno}" if isinstance(e, SyntaxError) and e.lineno else ""
        raise ConfigError(f"{where}{line} is not valid Python: {e.args[0]}") from None
    except (RecursionError, MemoryError):  # raised by the compiler for code that is nested too deeply
        raise ConfigError(f"{where} cannot be compiled: something in it is nested too deeply") from None
    return {**task, "code": code}
