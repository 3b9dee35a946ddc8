"""The type of the object to which a group of subcommands adds its parsers."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
"""The return type of `ArgumentParser.add_subparsers`, for which argparse has no public name."""
