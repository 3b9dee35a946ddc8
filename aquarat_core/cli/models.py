"""`aquarat model` and `aquarat profiles`: the built-in profiles, and the size and cost of their models."""

from __future__ import annotations

import argparse

from aquarat_core.cli.commands import Commands
from aquarat_core.cli.table import table
from aquarat_core.config import Profile, load_profile, profile_names


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("model", help="print the size and cost of the profiles' models")
    command.add_argument("--profile", help="name or YAML file of one profile (default: all built-in ones)")
    command.set_defaults(run=_model)

    command = commands.add_parser("profiles", help="list the built-in profiles")
    command.set_defaults(run=_profiles)


def _model(arguments: argparse.Namespace) -> str:
    profiles = [load_profile(name) for name in ([arguments.profile] if arguments.profile else profile_names())]
    columns = [_described(p) for p in profiles]
    rows = [("profile", *(p.name for p in profiles))]
    rows += [(name, *(_number(c[name]) for c in columns)) for name in columns[0]]
    return table(rows)


def _described(profile: Profile) -> dict[str, int | str]:
    from aquarat_core.model.accounting import MAX_SAVED_ATTENTION, describe, training_bytes

    base, vocab_size = profile.base_checkpoint, profile.tokenizer.vocab_size
    launch = base.launch
    device_type = "cuda" if launch.device == "cuda" else "cpu"
    memory = training_bytes(
        base.model, vocab_size, base.micro_batch_rows, ranks=launch.nproc,
        keeps_attention=device_type == "cpu" and base.model.sequence_len <= MAX_SAVED_ATTENTION,
        keeps_logits=launch.compiles_on(device_type),
    )  # fmt: skip
    return describe(base.model, vocab_size) | {"ranks": launch.nproc, "training_bytes_per_rank": memory}


def _number(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _profiles(_: argparse.Namespace) -> str:
    return table([(name, load_profile(name).description) for name in profile_names()])
