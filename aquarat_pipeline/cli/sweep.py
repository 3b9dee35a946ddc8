"""`aquarat sweep`: many chains that differ in a few fields, planned, made and compared together."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.errors import UsageError
from aquarat_core.plain_text import printable
from aquarat_pipeline.cli import forecast
from aquarat_pipeline.cli.launch import daemon_is_alive
from aquarat_pipeline.cli.runs import add_hosts, tags_of
from aquarat_pipeline.instance import open_instance

if TYPE_CHECKING:
    import dagster as dg

    from aquarat_pipeline.runs.in_process import Terminal
    from aquarat_pipeline.sweeps.driving import Driver, Start
    from aquarat_pipeline.sweeps.planning import Launch, SweepPlan
    from aquarat_pipeline.sweeps.spec import Sweep


def add_commands(commands: Commands) -> None:
    """Adds `sweep`."""
    command = commands.add_parser(
        "sweep",
        description="Makes every combination of the values in a file, each as a chain of its own; what several have in "
        "common is made once. Started again, it goes on. docs/sweeps.md describes the file.",
    )
    command.add_argument("file", type=Path, metavar="FILE", help="such as sweep.yaml")
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--plan",
        action="store_true",
        help="make nothing: print what would be made, what is there, how long it takes and what it costs",
    )
    what.add_argument(
        "--report",
        action="store_true",
        help="print the results, and which settings differ from the reference beyond noise",
    )
    what.add_argument("--cancel", action="store_true", help="cancel all of its runs; what is made is kept")
    what.add_argument("--remove", action="store_true", help="remove its experiments; artifacts stay in the store")
    what.add_argument(
        "--queue", action="store_true", help="queue runs for the daemon, side by side; otherwise they run here"
    )
    add_hosts(command)
    forecast.add_options(command)
    add_json(command)
    command.set_defaults(run=_sweep)


def _sweep(arguments: argparse.Namespace) -> str | CheckFailed:
    from aquarat_pipeline.sweeps.spec import read_sweep

    tags = tags_of(arguments)
    if forecast.is_asked(arguments) and not arguments.plan and not arguments.report:
        raise UsageError("--gpu, --gpus, --price and --utilization are for --plan, and --price for --report")
    sweep = read_sweep(arguments.file)
    if arguments.plan:
        from aquarat_pipeline.cli.sweep_plan import show

        with open_instance() as instance:
            return show(arguments, instance, sweep, tags)
    if arguments.report:
        return _report(arguments, sweep)
    if arguments.cancel:
        return _cancel(arguments, sweep)
    if arguments.remove:
        return _remove(arguments, sweep)
    return _run(arguments, sweep, tags)


def _report(arguments: argparse.Namespace, sweep: Sweep) -> str:
    from aquarat_core.settings import store_uri
    from aquarat_pipeline.sweeps import report

    found = report.results(sweep, store_uri(), arguments.price)
    return answer(arguments, report.machine(found), report.text(found))


def _cancel(arguments: argparse.Namespace, sweep: Sweep) -> str:
    from aquarat_pipeline.sweeps.driving import cancel

    with open_instance() as instance:
        ended = cancel(instance, sweep.name)
    runs = f"{len(ended)} run{'s' if len(ended) != 1 else ''}"
    text = f"the sweep {sweep.name} is cancelled, with {runs}; what it has made is kept"
    return answer(arguments, {"sweep": sweep.name, "cancelled": ended}, text)


def _remove(arguments: argparse.Namespace, sweep: Sweep) -> str:
    from aquarat_pipeline.sweeps.driving import remove_experiments, unfinished

    with open_instance() as instance:
        if unfinished(instance, sweep.name):
            raise UsageError(f"the sweep {sweep.name} has runs: aquarat sweep {arguments.file} --cancel")
    gone = remove_experiments(sweep.points)
    return answer(arguments, {"removed": gone}, f"{len(gone)} experiments are removed; artifacts stay in the store")


def _run(arguments: argparse.Namespace, sweep: Sweep, tags: dict[str, str]) -> str | CheckFailed:
    from aquarat_pipeline.home import dagster_home
    from aquarat_pipeline.runs.in_process import RunInterruptedError, terminal
    from aquarat_pipeline.sweeps import driving

    home = dagster_home()
    with driving.sole_driver(home, sweep), terminal("sweep") as user:
        # Before Dagster's definitions are loaded, which are those of the experiments that are there then.
        driving.add_experiments(home, sweep.points)
        try:
            with open_instance() as instance:
                driver = driving.Driver(sweep, instance, user.say, daemon_is_alive(instance))
                plan = driver.drive(*_starter(arguments, user, instance, sweep, tags))
        except (RunInterruptedError, KeyboardInterrupt, driving.SweepCancelledError) as e:
            again = f"To go on: aquarat sweep {arguments.file}"
            user.say(printable(f"\n{str(e) or 'interrupted'}\n{again}"))
            raise SystemExit(128 + signal.SIGINT) from None
        finally:
            user.err.flush()
    return _ended(arguments, sweep, driver, plan)


def _starter(
    arguments: argparse.Namespace, user: Terminal, instance: dg.DagsterInstance, sweep: Sweep, tags: dict[str, str]
) -> tuple[Start, int | None]:
    """How launches are started: here one by one, or all that can start through the daemon."""
    from aquarat_core.errors import UserError
    from aquarat_pipeline.sweeps.driving import NotMadeError
    from aquarat_pipeline.tags import SWEEP_TAG

    given = {**tags, SWEEP_TAG: sweep.name}

    def told(launch: Launch) -> list[str]:
        user.say(printable(f"\n{launch.point.label}: {', '.join(launch.stages)}"))
        return [*map(launch.point.experiment.ref, launch.stages)]

    def here(launch: Launch) -> None:
        from aquarat_pipeline.runs.in_process import RunFailedError, RunInterruptedError, materialize

        try:
            materialize(user, instance, told(launch), tags=given)
        except RunInterruptedError:
            raise
        except (RunFailedError, UserError) as e:
            user.say(printable(f"failed: {e}"))
            raise NotMadeError(str(e)) from None

    def queue(launch: Launch) -> dg.DagsterRun:
        from aquarat_pipeline.runs import submit

        try:
            run = submit.submit(instance, told(launch), tags=given)
        except UserError as e:
            user.say(printable(f"failed: {e}"))
            raise NotMadeError(str(e)) from None
        user.say(f"run {run.run_id} is queued")
        return run

    if arguments.queue and not daemon_is_alive(instance):
        user.say("No Dagster daemon is running: queued runs start with `./run dev`.")
    return (queue, None) if arguments.queue else (here, 1)


def _ended(arguments: argparse.Namespace, sweep: Sweep, driver: Driver, plan: SweepPlan) -> str | CheckFailed:
    missing = {point.label: [cell.ref for cell in plan.missing(point)] for point in sweep.points if plan.missing(point)}
    facts = {
        "sweep": sweep.name,
        "points": {
            point.experiment.name: {"settings": dict(point.settings), "seed": point.seed,
                                    "made": {c.stage: c.artifact.sha256 for c in plan.of(point) if c.artifact}}
            for point in sweep.points
        },
        "failures": driver.failures,
    }  # fmt: skip
    if missing:
        reasons = dict.fromkeys(driver.failures.values())
        lines = [f"{len(missing)} of {len(sweep.points)} points are not complete:"]
        lines += [f"  {label}: without {', '.join(refs)}" for label, refs in missing.items()]
        return CheckFailed(answer(arguments, facts, "\n".join([*lines, *reasons])))
    text = f"all {len(sweep.points)} points are made. To compare them: aquarat sweep {arguments.file} --report"
    return json.dumps(facts) if arguments.json else text
