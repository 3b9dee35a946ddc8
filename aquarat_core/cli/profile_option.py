"""The options `--profile` and `--depth` of the commands that work with a profile."""

from __future__ import annotations

import argparse

from aquarat_core.cli.completion import complete_profiles

INSTEAD = "a profile's name or file instead of AQUARAT_PROFILE"


def add_profile(command: argparse.ArgumentParser, what: str = INSTEAD) -> None:
    """Adds `--profile`, completed by the shell, and `--depth`."""
    complete_profiles(command.add_argument("--profile", help=what))
    add_depth(command)


def add_depth(command: argparse.ArgumentParser) -> None:
    """Adds `--depth`."""
    command.add_argument(
        "--depth", type=int, metavar="N",
        help="another depth for a profile that has one (d12 unless a profile is named): width, batch, rates, text and "
        "micro-batches follow",
    )  # fmt: skip
