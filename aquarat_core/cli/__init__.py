"""The command `aquarat`. Each module in `COMMANDS` adds a group of subcommands, and so do other packages.

A group is a function `add_commands(commands)`. It adds parsers and sets `run` of each to a function that takes the
parsed arguments and returns the output, a text or a `CheckFailed`. Groups import heavy modules only where they need
them. Groups from other packages, such as those for the control host, which need Dagster, are entry points
(`entry_points.py`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from aquarat_core.cli import entry_points
from aquarat_core.cli.output import CheckFailed
from aquarat_core.errors import UserError
from aquarat_core.plain_text import printable

if TYPE_CHECKING:
    # argparse has no public name for it, and it is generic only in the stubs.
    _SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]
else:
    _SubParsers = argparse._SubParsersAction

COMMANDS = (
    "aquarat_core.cli.artifacts",
    "aquarat_core.cli.store",
    "aquarat_core.cli.reproduce",
    "aquarat_core.cli.models",
    "aquarat_core.cli.generate",
    "aquarat_core.cli.serve",
    "aquarat_core.cli.evaluate",
    "aquarat_core.cli.compare",
    "aquarat_core.cli.import_model",
    "aquarat_core.cli.release",
    "aquarat_core.cli.export",
)
NOT_SET_UP = (
    "The commands of other packages, such as those for runs, are missing. On a control host that means an environment "
    "older than the sources: ./run setup"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand. A `UserError` is printed as a message on stderr, with `--json` also on stdout; exit code
    2."""
    arguments = _parser().parse_args(argv)
    try:
        answer = arguments.run(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except UserError as e:
        print(printable(f"aquarat: {e}"), file=sys.stderr)
        if getattr(arguments, "json", False):
            print(json.dumps({"error": str(e)}))
        return 2
    try:
        print(printable(answer.text if isinstance(answer, CheckFailed) else answer), flush=True)
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. This prevents another flush, and another error, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if isinstance(answer, CheckFailed) else 0


class _Parser(argparse.ArgumentParser):
    """Begins the help of each command with the sentence from the list of commands."""

    unusable: tuple[str, ...] = ()
    """The reason why commands of other packages are missing."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register("action", "parsers", _Commands)

    def error(self, message: str) -> NoReturn:
        # Not shown for other mistakes, because a GPU host has no Dagster and needs none.
        told = self.unusable if "invalid choice" in message else ()
        super().error(printable("\n".join([message, *told])))


class _Commands(_SubParsers):
    def add_parser(self, name: str, **kwargs: Any) -> argparse.ArgumentParser:
        what = kwargs.get("help", "")
        described: dict[str, Any] = {"description": f"{what[:1].upper()}{what[1:]}.", **kwargs}
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="aquarat",
        description="Inspect artifacts and their ancestry, ask checkpoints, make assets and launch runs.",
    )
    parser.add_argument("--version", action=_Version, help="print the version, and the commit of a checkout, and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        importlib.import_module(module).add_commands(commands)
    problems: list[str] = []
    added = 0
    for add_commands in entry_points.load(entry_points.COMMANDS, problems.append):
        add_commands(commands)
        added += 1
    parser.unusable = tuple(problems) if added or problems else (NOT_SET_UP,)
    parser.epilog = printable("\n".join(problems)) or None
    return parser
