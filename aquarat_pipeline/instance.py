"""Opens the Dagster instance of `DAGSTER_HOME`, in a new home one process after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.locks import waited_for

if TYPE_CHECKING:
    import dagster as dg

OPENING = ".opening"
"""A file of the home that a process holds while it opens the instance."""


def open_instance() -> dg.DagsterInstance:
    """The Dagster instance that `DAGSTER_HOME` names. Raises `HomeError` if it names none."""
    home = dagster_home()
    # After the check, because the import takes a second.
    import dagster as dg

    # Two processes that make the SQLite files of a new home at once can make them useless: a version is written twice.
    with waited_for(home / OPENING):
        return dg.DagsterInstance.get()
