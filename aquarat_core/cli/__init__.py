"""The command `aquarat`.

`commands.py` has the table of commands, to which other packages add theirs (`entry_points.py`). Only the module of the
command that was asked for is imported. Its function `add_commands(commands)` adds parsers and sets `run` of each to a
function that takes the parsed arguments and returns the output, a text or a `CheckFailed`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from aquarat_core.cli import entry_points
from aquarat_core.cli.commands import COMMANDS, Command
from aquarat_core.cli.output import CheckFailed
from aquarat_core.errors import UserError
from aquarat_core.plain_text import printable

if TYPE_CHECKING:
    # argparse has no public name for it, and it is generic only in the stubs.
    _SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]
else:
    _SubParsers = argparse._SubParsersAction

NOT_SET_UP = (
    "The commands of other packages, such as those for runs, are missing. On a control host that means an environment "
    "older than the sources: ./run setup"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: that of `_run`, 130 after Ctrl-C, 141 if the reader of the output has
    closed the pipe, as `head` does."""
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        print("aquarat: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # This prevents another flush, and another error, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(argv: list[str]) -> int:
    """0 for success, 1 for a `CheckFailed`, 2 for a `UserError`, which is printed as a message on stderr and with
    `--json` also on stdout."""
    problems: list[str] = []
    table = command_table(problems)
    if "_ARGCOMPLETE" in os.environ:
        from aquarat_core.cli.completion import complete

        return complete(lambda chosen: build_parser(table, problems, chosen))
    chosen = next((word for word in argv if not word.startswith("-")), None)
    if not argv or (chosen is None and {"-h", "--help"} & set(argv)):
        from aquarat_core.cli.manual import manual

        print(printable(manual(table.values(), problems)), flush=True)
        return 0
    arguments = build_parser(table, problems, chosen).parse_args(argv)
    try:
        answer = arguments.run(arguments)
    except UserError as e:
        print(printable(f"aquarat: {e}"), file=sys.stderr)
        if getattr(arguments, "json", False):
            print(json.dumps({"error": str(e)}), flush=True)
        return 2
    text = answer.text if isinstance(answer, CheckFailed) else answer
    if text:
        print(printable(text), flush=True)
    return 1 if isinstance(answer, CheckFailed) else 0


def command_table(problems: list[str]) -> dict[str, Command]:
    """All commands by name, in the order of the manual's groups. Adds to `problems` why others are missing."""
    rows = {command.name: command for command in COMMANDS}
    others: list[Command] = []
    for more in entry_points.load(entry_points.COMMANDS, problems.append):
        others += more if isinstance(more, (list, tuple)) else ()  # before, they were functions
    if not others and not problems:
        problems.append(NOT_SET_UP)
    return {command.name: command for command in others} | rows


def build_parser(
    table: dict[str, Command], problems: Sequence[str] = (), chosen: str | None = None
) -> argparse.ArgumentParser:
    """The parser of all commands, in which only the `chosen` one has its arguments; without one, all have them."""
    parser = _Parser(prog="aquarat")
    parser.problems = tuple(problems)
    parser.add_argument("--version", action=_Version, help="print the version, and the commit of a checkout, and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    assert isinstance(commands, _Commands)
    commands.table = table
    wanted = table.values() if chosen is None else filter(None, [table.get(chosen)])
    for module in dict.fromkeys(command.module for command in wanted):
        importlib.import_module(module).add_commands(commands)
    for name in table.keys() - commands.choices.keys():
        commands.add_parser(name)
    return parser


class _Parser(argparse.ArgumentParser):
    """Begins the help of each command with its sentence, and names the nearest word for one that does not exist."""

    problems: tuple[str, ...] = ()
    """Why commands of other packages are missing."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register("action", "parsers", _Commands)

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if found is None:
            super().error(printable(message))
        from aquarat_core.config.validation import did_you_mean

        near = did_you_mean(found[1], re.findall(r"[\w-]+", found[2]))
        if isinstance(self._subcommands, _Commands) and self._subcommands.table:
            near = near or "`aquarat --help` lists them. "
            told = "\n".join([f"aquarat: there is no command {found[1]!r}; {near.strip()}", *self.problems])
            self.exit(2, printable(f"{told}\n"))
        super().error(printable(f"{message}{'; ' if near else ''}{near.strip()}"))

    @property
    def _subcommands(self) -> argparse.Action | None:
        return next((action for action in self._actions if isinstance(action, _Commands)), None)


class _Commands(_SubParsers):
    table: dict[str, Command] = {}  # noqa: RUF012  # set for the first level only
    """The sentences and examples of the commands; those of commands within them come with each `add_parser`."""

    def add_parser(self, name: str, **kwargs: Any) -> argparse.ArgumentParser:
        row = self.table.get(name)
        what = row.what if row else kwargs.get("help", "")
        described: dict[str, Any] = {"description": f"{what[:1].upper()}{what[1:]}.", **kwargs, "help": what}
        if row and row.example and "epilog" not in kwargs:
            described["epilog"] = f"Example: {row.example}"
        return super().add_parser(name, **described)


class _Version(argparse.Action):
    """Prints the version and exits. Runs git only if the option is given."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from aquarat_core import __version__
        from aquarat_core.artifacts import git_state
        from aquarat_core.settings import REPO_ROOT

        commit, dirty = git_state(REPO_ROOT)
        where = f", commit {commit}{' with uncommitted changes' if dirty else ''}" if commit else ""
        print(f"aquarat {__version__}{where}")
        parser.exit()
