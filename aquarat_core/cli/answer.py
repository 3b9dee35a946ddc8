"""What a command answers: text for people or one JSON document for machines, and whether it is good news.

Exit codes: 0 for good news, 1 for a `Finding`, 2 where the question could not be answered at all.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from typing import Any

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters and those that turn the direction of text; tabs and line ends are not among them."""


def harmless(text: str) -> str:
    """`text` with escapes, valid in JSON too, for what a terminal obeys instead of showing it.

    Run ids, profiles and what is wrong with an object come from whoever may write to a store.
    """
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@dataclass(frozen=True, slots=True)
class Finding:
    """An answer that is bad news, such as damage in a store: printed like any other, with exit code 1."""

    text: str


def answer(arguments: argparse.Namespace, machine: Any, human: str) -> str:
    """The one that `--json` asks for."""
    return json.dumps(machine, default=str) if arguments.json else human
