"""The text of `aquarat --help`: all commands in groups, on one screen of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aquarat_core.cli.commands import GROUPS, Command

WIDTH = 80
_NAME = 13
_GROUP = 11
HEAD = """\
usage: aquarat COMMAND [ARGUMENT ...], explained by `aquarat COMMAND --help`
"""
FOOT = """\
examples:
  aquarat status                                 what is there, what is running
  aquarat materialize rl_checkpoint --with-parents
  aquarat launch rl_checkpoint --set rl_checkpoint.steps=200 --follow
  aquarat chat rl_checkpoint

options: --version, --help, for most commands --json. All: docs/cli.md"""


def manual(commands: Iterable[Command], problems: Sequence[str] = ()) -> str:
    """The manual, and after it why commands of other packages are missing, if they are."""
    rows = sorted(commands, key=lambda command: _place(command.group))
    lines: list[str] = []
    for n, row in enumerate(rows):
        group = "" if n and rows[n - 1].group == row.group else row.group
        lines.append(f"{group:<{_GROUP}}{row.name:<{_NAME}}{row.what}")
    return "\n".join([HEAD, *lines, "", FOOT, *problems])


def _place(group: str) -> int:
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)
