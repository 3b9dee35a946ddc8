"""What a group of subcommands adds its parsers to."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
"""What `ArgumentParser.add_subparsers` returns; argparse has no public name for it."""
