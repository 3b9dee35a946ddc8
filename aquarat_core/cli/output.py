"""What a command prints: text for people, or one JSON document for programs.

Exit codes: 0 for success, 1 for a `CheckFailed`, 2 if the command itself could not do its work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """The result of a command that found a problem, such as damage in a store: printed as usual, with exit code 1."""

    text: str


def answer(arguments: argparse.Namespace, machine: Any, human: str) -> str:
    """`machine` as JSON if `--json` was given, otherwise `human`."""
    return json.dumps(machine, default=str) if arguments.json else human


def log(text: str) -> None:
    """Says on standard error what is going on."""
    print(text, file=sys.stderr, flush=True)


def dim(text: str, stream: TextIO) -> str:
    """`text` in a weaker color on a terminal, unless `NO_COLOR` is set."""
    wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[2m{text}\x1b[0m" if wanted and text else text
