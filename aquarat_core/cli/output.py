"""What a command prints: text for people, or one JSON document for programs.

Exit codes: 0 for success, 1 for a `CheckFailed`, 2 if the command itself could not do its work.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any


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
