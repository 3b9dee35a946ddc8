"""Arguments that several commands for making assets share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from aquarat_core.cli.completion import complete_with
from aquarat_core.cli.profile_option import add_profile
from aquarat_core.errors import UsageError


def add_assets(command: argparse.ArgumentParser, default: list[str] | None = None) -> None:
    """Arguments for the assets to make, their profile and the fields with other values; `check_typed` applies the
    profile."""
    several, without = ("*", f" (default: {' '.join(default)} --with-parents)") if default else ("+", "")
    assets = command.add_argument(
        "assets", nargs=several, default=default, metavar="ASSET",
        help=f"an asset's name; EXPERIMENT/ASSET in a named experiment{without}",
    )  # fmt: skip
    complete_with(assets, _known_assets)
    command.add_argument("--with-parents", action="store_true", help="also make all of the assets' inputs")
    add_profile(command)
    fields = command.add_argument(
        "--set", action="append", default=[], dest="fields", metavar="FIELD=VALUE",
        help="another value than the profile's, such as rl_checkpoint.steps=20; can be repeated",
    )  # fmt: skip
    complete_with(fields, _known_fields)


def add_hosts(command: argparse.ArgumentParser) -> None:
    """Arguments for the hosts of the run's stages, and what may be rented for it; `tags_of` makes tags of them."""
    command.add_argument("--pool", help="only hosts with this label; rented ones, if it is a pool of rent.yaml")
    command.add_argument("--host", help="only this host")
    command.add_argument(
        "--nodes",
        metavar="N|MIN:MAX",
        help="hosts for each training stage; as many between MIN and MAX as are free when it starts, and again after "
        "a host is lost (launch.min_nodes and launch.nodes of the stage, 1)",
    )
    command.add_argument(
        "--budget",
        metavar="DOLLARS",
        help="what hosts rented for the run may cost in all; default: per_run of the pool",
    )


def tags_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The run's tags for the arguments of `add_hosts`. Raises `UsageError`."""
    from aquarat_pipeline import tags
    from aquarat_pipeline.hosts.numbers import read_numbers

    if arguments.budget is not None and arguments.pool is None:
        raise UsageError("--budget limits what is rented from a pool of rent.yaml: name it with --pool")
    if arguments.nodes is not None:
        try:
            read_numbers(arguments.nodes)
        except ValueError as e:
            raise UsageError(f"--nodes is {arguments.nodes!r}: {e}") from None
    wanted = {
        tags.POOL_TAG: arguments.pool,
        tags.HOST_TAG: arguments.host,
        tags.NODES_TAG: arguments.nodes,
        tags.BUDGET_TAG: arguments.budget,
    }
    return {name: str(value) for name, value in wanted.items() if value is not None}


def use_profile(arguments: argparse.Namespace) -> None:
    """Makes this process use the profile of `--profile` and `--depth`. Named experiments have their own profile.

    Raises `ConfigError` for an invalid profile, before Dagster would with a long traceback, and `ExperimentError`.
    """
    from aquarat_core.config import load_profile
    from aquarat_pipeline.experiments import ExperimentError, experiment_of
    from aquarat_pipeline.runs.profiles import choose

    if arguments.profile or arguments.depth is not None:
        choose(arguments.profile, arguments.depth)
        if named := [name for name in arguments.assets if experiment_of(name)]:
            raise ExperimentError(
                f"{', '.join(named)}: a named experiment has its own profile (see `aquarat experiments`): "
                "leave --profile and --depth out, or add another experiment for it"
            )
    load_profile()


def check_typed(arguments: argparse.Namespace) -> None:
    """Applies the profile and checks the assets and fields, before the seconds that Dagster's import takes.

    Raises `ConfigError` for an invalid profile or value, and `ExperimentError` for names.
    """
    from aquarat_core.config.overrides import overrides
    from aquarat_pipeline.experiments import check_names, experiment_of, of_run

    use_profile(arguments)
    check_names(arguments.assets)
    experiment = of_run(map(experiment_of, arguments.assets))
    overrides(experiment.profile, arguments.fields)


# --- completion -----------------------------------------------------------------------------------------------------


def _known_assets() -> Iterable[str]:
    from aquarat_core.stages.registry import STAGES
    from aquarat_pipeline import experiments

    names = ["", *(f"{name}/" for name in experiments.registered())]
    return (f"{name}{asset}" for name in names for asset in STAGES)


def _known_fields() -> Iterable[str]:
    from aquarat_core.config.overrides import field_names

    return (f"{name}=" for name in field_names())
