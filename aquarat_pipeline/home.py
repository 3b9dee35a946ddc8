"""Where Dagster keeps its records: the folder that `DAGSTER_HOME` names, and what is said of a database."""

from __future__ import annotations

import os
from pathlib import Path

from aquarat_core.errors import UserError


class HomeError(UserError):
    """`DAGSTER_HOME` is not a usable folder; the message says what to do."""


class DatabaseError(UserError):
    """Dagster's database cannot be used; the message says which, why and what to do."""


def dagster_home() -> Path:
    """The folder. Raises `HomeError` if the variable is not set, or does not name a folder."""
    named = os.environ.get("DAGSTER_HOME")
    if not named:
        raise HomeError("DAGSTER_HOME is not set: run this inside `./run shell`")
    path = Path(named)
    if not path.is_absolute() or not path.is_dir():
        what = "is not a folder" if path.is_absolute() else "is not an absolute path"
        raise HomeError(f"DAGSTER_HOME is {named}, which {what}: run this inside `./run shell`, or create it")
    return path
