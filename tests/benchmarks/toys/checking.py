"""Checks something."""

from __future__ import annotations

from collections.abc import Sequence


def main(options: Sequence[str]) -> int:
    print("checked", *options)
    return 1
