"""What a command answers: text for people or one JSON document for machines, and whether it is good news.

Exit codes: 0 for good news, 1 for a `Finding`, 2 where the question could not be answered at all.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """An answer that is bad news, such as damage in a store: printed like any other, with exit code 1."""

    text: str


def answer(arguments: argparse.Namespace, machine: Any, human: str) -> str:
    """The one that `--json` asks for."""
    return json.dumps(machine, default=str) if arguments.json else human
