"""Which sources a host has: what two hosts compare before one makes shards for the other."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aquarat_core.artifacts.hashing import tree_digest

PACKAGE = Path(__file__).resolve().parents[1]
TOKENIZER = "rustbpe_py"


@cache
def project_version() -> str:
    """The sources of this package, and the version of the tokenizer's wheel, in words."""
    try:
        tokenizer = version(TOKENIZER)
    except PackageNotFoundError:
        tokenizer = "none"
    return f"sources {tree_digest(PACKAGE, '*.py')[:12]} and tokenizer {tokenizer}"
