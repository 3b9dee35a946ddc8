"""Which sources a host has: what two hosts compare before one makes shards for the other."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
TOKENIZER = "rustbpe_py"


@cache
def project_version() -> str:
    """The sources of this package, and the version of the tokenizer's wheel, in words."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    try:
        tokenizer = version(TOKENIZER)
    except PackageNotFoundError:
        tokenizer = "none"
    return f"sources {digest.hexdigest()[:12]} and tokenizer {tokenizer}"
