"""`aquarat launch`, `tail` and `cancel`: runs in the Dagster instance that outlive the shell."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aquarat_core.cli.commands import Commands
from aquarat_core.plain_text import printable

if TYPE_CHECKING:
    import dagster as dg

HEARTBEAT_SECONDS = 120.0
"""Limit on the age of a heartbeat in seconds; Dagster's daemons write one every 30 s."""


def add_commands(commands: Commands) -> None:
    """Adds `launch`, `tail` and `cancel`."""
    launch = commands.add_parser("launch", help="queue a run on the running Dagster instance")
    add_assets(launch)
    launch.add_argument("--any-inputs", action="store_true", help="accept inputs that another profile made")
    launch.add_argument("--pool", help="only hosts with this label")
    launch.add_argument("--host", help="only this host")
    launch.add_argument("--nodes", type=int, help="hosts for each training stage (1)")
    launch.add_argument("--follow", action="store_true", help="show the run's log; Ctrl-C leaves the run alone")
    launch.set_defaults(run=_launch)
    tail = commands.add_parser("tail", help="print the last output of every rank of a run's job")
    tail.add_argument("run_id", metavar="RUN", help="the run's id, or the start of it")
    tail.add_argument("--lines", type=int, default=20, help="lines of each log (20)")
    tail.set_defaults(run=_tail)
    cancel = commands.add_parser("cancel", help="cancel a run in whatever state it is")
    cancel.add_argument("run_id", metavar="RUN", help="the run's id, or the start of it")
    cancel.set_defaults(run=_cancel)


def add_assets(command: argparse.ArgumentParser) -> None:
    """Arguments for the assets to make and their profile; `use_profile` applies the profile."""
    command.add_argument("assets", nargs="+", metavar="ASSET", help="EXPERIMENT/ASSET in a named experiment")
    command.add_argument("--with-parents", action="store_true", help="also make all of the assets' inputs")
    command.add_argument("--profile", help="a profile's name or file instead of AQUARAT_PROFILE")


def _launch(arguments: argparse.Namespace) -> str:
    use_profile(arguments)
    from aquarat_pipeline import tags
    from aquarat_pipeline.runs import submit

    wanted = {tags.POOL_TAG: arguments.pool, tags.HOST_TAG: arguments.host, tags.NODES_TAG: arguments.nodes}
    wanted[tags.ANY_INPUTS_TAG] = "true" if arguments.any_inputs else None

    def say(line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)

    with open_instance() as instance:
        run = submit.submit(
            instance,
            arguments.assets,
            with_parents=arguments.with_parents,
            tags={name: str(value) for name, value in wanted.items() if value is not None},
            say=say,
        )
        hint = "" if _daemon_is_alive(instance) else "\nNo Dagster daemon is running: it starts with `./run dev`."
        queued = f"run {run.run_id} is queued{hint}"
        if not arguments.follow:
            return queued
        print(queued, flush=True)
        try:
            for line in submit.watch(instance, run.run_id):
                print(printable(line), flush=True)
        except KeyboardInterrupt:
            return f"\nThe run continues. To end it: aquarat cancel {run.run_id[:8]}"
        status = submit.run_of(instance, run.run_id).status.value
        if status != "SUCCESS":
            raise submit.LaunchError(f"run {run.run_id} ended: {status}")
        return f"run {run.run_id} ended: {status}"


def _tail(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline.runs import submit, tailing

    with open_instance() as instance:
        run = submit.find_run(instance, arguments.run_id)
        return "\n".join(tailing.last_lines(Path(instance.root_directory), run, arguments.lines))


def _cancel(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline.runs import submit

    with open_instance() as instance:
        run = submit.find_run(instance, arguments.run_id)
        return f"run {run.run_id}: {submit.cancel(instance, run).value}"


def use_profile(arguments: argparse.Namespace) -> None:
    """Makes this process use the profile of `--profile`. Named experiments have their own profile.

    Raises `ConfigError` for an invalid profile, before Dagster would with a long traceback, and `ExperimentError`.
    """
    from aquarat_core.config import load_profile
    from aquarat_pipeline.experiments import ExperimentError, experiment_of
    from aquarat_pipeline.runs.profiles import choose

    if arguments.profile:
        choose(arguments.profile)
        if named := [name for name in arguments.assets if experiment_of(name)]:
            raise ExperimentError(
                f"{', '.join(named)}: a named experiment has its own profile (see `aquarat experiments`): "
                "leave --profile out, or add another experiment for it"
            )
    load_profile()


def open_instance() -> dg.DagsterInstance:
    """The Dagster instance that `DAGSTER_HOME` names. Raises `HomeError` if it names none."""
    import dagster as dg

    from aquarat_pipeline.home import dagster_home

    dagster_home()
    return dg.DagsterInstance.get()


def _daemon_is_alive(instance: dg.DagsterInstance) -> bool:
    beat = instance.get_daemon_heartbeats().get("QUEUED_RUN_COORDINATOR")
    return beat is not None and time.time() - beat.timestamp < HEARTBEAT_SECONDS
