"""Loads the entry points with which other packages extend the command line; no package is known here by name.

Other packages register them in their `pyproject.toml`. `aquarat.commands` are sequences of `Command`, rows for the
table of commands; what they name should import nothing heavy. `aquarat.garbage_roots` are functions that take a number
of days and return the hashes of further manifests that garbage collection must keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

COMMANDS = "aquarat.commands"
GARBAGE_ROOTS = "aquarat.garbage_roots"


def load(group: str, said: Callable[[str], None]) -> Iterator[Any]:
    """The objects that a group names, by name. Leaves out those that cannot be imported, and passes each reason to
    `said`, once for all that it concerns."""
    failed: dict[str, list[str]] = {}
    for point in sorted(metadata.entry_points(group=group), key=lambda point: point.name):
        try:
            yield point.load()
        except (ImportError, AttributeError) as e:
            owner = point.dist.name if point.dist else "a package"
            failed.setdefault(f" of {owner} cannot be used: {e}", []).append(point.name)
    for reason, names in failed.items():
        said(f"{', '.join(names)}{reason}")
