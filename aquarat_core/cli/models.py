"""`aquarat model` and `aquarat profiles`: the built-in profiles, and the size and cost of their models."""

from __future__ import annotations

import argparse

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer
from aquarat_core.cli.profile_option import add_profile
from aquarat_core.cli.table import table
from aquarat_core.config import Profile, load_profile, profile_names


def add_commands(commands: Commands) -> None:
    """Adds `model` and `profiles`."""
    command = commands.add_parser("model")
    add_profile(command, "name or YAML file of one profile (default: all built-in ones)")
    add_json(command)
    command.set_defaults(run=_model)

    command = commands.add_parser("profiles")
    add_json(command)
    command.set_defaults(run=_profiles)


def _model(arguments: argparse.Namespace) -> str:
    one = arguments.profile or arguments.depth
    profiles = [load_profile(arguments.profile, depth=arguments.depth)] if one else _by_size()
    columns = [_described(p) for p in profiles]
    rows = [("profile", *(p.name for p in profiles))]
    rows += [(name, *(_number(c[name]) for c in columns)) for name in columns[0]]
    facts = {p.name: column for p, column in zip(profiles, columns, strict=True)}
    return answer(arguments, facts, table(rows, right=range(1, len(profiles) + 1)))


def _by_size() -> list[Profile]:
    """The built-in profiles, the smallest model first."""
    from aquarat_core.config.accounting import parameters

    loaded = map(load_profile, profile_names())
    return sorted(loaded, key=lambda p: parameters(p.base_checkpoint.model, p.tokenizer.vocab_size))


def _described(profile: Profile) -> dict[str, int | str]:
    from aquarat_core.config.accounting import MAX_SAVED_ATTENTION, describe, training_bytes

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


def _profiles(arguments: argparse.Namespace) -> str:
    found = {profile.name: profile.description for profile in _by_size()}
    return answer(arguments, found, table(list(found.items())))
