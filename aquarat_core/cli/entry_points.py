"""What other packages add to the command line by entry points in their `pyproject.toml`; this one knows none of them.

`aquarat.commands` are functions that add subcommands, as `add_commands` of the modules beside this one.
`aquarat.garbage_roots` are functions of a number of days that return the hashes of manifests that garbage collection
must keep, beyond what the store itself says. Installing a package registers its entry points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

COMMANDS = "aquarat.commands"
GARBAGE_ROOTS = "aquarat.garbage_roots"


def load(group: str, said: Callable[[str], None]) -> Iterator[Callable[..., Any]]:
    """The functions of a group, by their names. One that cannot be imported is left out, and `said` why."""
    for point in sorted(metadata.entry_points(group=group), key=lambda point: point.name):
        try:
            yield point.load()
        except (ImportError, AttributeError) as e:
            owner = point.dist.name if point.dist else "a package"
            said(f"{point.name} of {owner} cannot be used: {e}")
