"""`aquarat launch`, `tail` and `cancel`: runs in the Dagster instance that outlive the shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.completion import complete_with
from aquarat_core.cli.output import CheckFailed, answer, log
from aquarat_core.plain_text import printable
from aquarat_pipeline.cli import plan
from aquarat_pipeline.cli.runs import add_assets, add_hosts, check_typed, tags_of
from aquarat_pipeline.instance import open_instance

if TYPE_CHECKING:
    import dagster as dg

HEARTBEAT_SECONDS = 120.0
"""Limit on the age of a heartbeat in seconds; Dagster's daemons write one every 30 s."""


def add_commands(commands: Commands) -> None:
    """Adds `launch`, `tail` and `cancel`."""
    launch = commands.add_parser(
        "launch",
        description="Queues a run, which the daemon of `./run dev` starts. The run outlives this terminal.",
    )
    add_assets(launch)
    launch.add_argument("--any-inputs", action="store_true", help="accept inputs that another profile made")
    add_hosts(launch)
    launch.add_argument(
        "--plan", action="store_true",
        help="queue nothing: only say what would run, where, for how long and for how much",
    )  # fmt: skip
    launch.add_argument("--follow", action="store_true", help="show the run's log; Ctrl-C leaves the run alone")
    add_json(launch)
    launch.set_defaults(run=_launch)
    tail = commands.add_parser("tail", description="Prints the last output of every rank of a run's job.")
    _add_run(tail)
    tail.add_argument("--lines", type=int, default=20, help="lines of each log (20)")
    tail.add_argument(
        "--follow", action="store_true", help="print what rank 0 prints from now on, until the run has ended"
    )
    add_json(tail)
    tail.set_defaults(run=_tail)
    cancel = commands.add_parser(
        "cancel", description="Cancels a run in whatever state it is. Training saves its state."
    )
    _add_run(cancel)
    add_json(cancel)
    cancel.set_defaults(run=_cancel)


def _add_run(command: argparse.ArgumentParser) -> None:
    run = command.add_argument("run_id", metavar="RUN", help="the run's id, or the start of it")
    complete_with(run, _known_runs)


def _launch(arguments: argparse.Namespace) -> str | CheckFailed:
    if arguments.plan:
        # Unlike `materialize`, it makes what it is told to make, whether that is up to date or not.
        return plan.show(arguments, arguments.with_parents, again=True)
    check_typed(arguments)
    from aquarat_pipeline import tags
    from aquarat_pipeline.runs import submit

    wanted = tags_of(arguments) | ({tags.ANY_INPUTS_TAG: "true"} if arguments.any_inputs else {})
    with open_instance() as instance:
        run = submit.submit(
            instance,
            arguments.assets,
            with_parents=arguments.with_parents,
            tags=wanted,
            fields=arguments.fields,
            say=_say,
        )
        alive = daemon_is_alive(instance)
        queued = f"run {run.run_id} is queued"
        hint = "" if alive else "\nNo Dagster daemon is running: it starts with `./run dev`."
        if arguments.json and not arguments.follow:
            return json.dumps({"run_id": run.run_id, "status": "QUEUED", "daemon": alive})
        print(f"{queued}{hint}", file=sys.stderr if arguments.json else sys.stdout, flush=True)
        if arguments.follow:
            return _follow(arguments, instance, run.run_id)
        log(f"How it goes: aquarat status, aquarat tail --follow {run.run_id[:8]}, {_page_of(run.run_id)}")
        return ""


def _page_of(run_id: str) -> str:
    """The address of the run's page, where the UI is unless a setting says another place."""
    where = os.environ.get("AQUARAT_UI_URL") or f"http://127.0.0.1:{os.environ.get('AQUARAT_PORT') or 3000}"
    return f"{where.rstrip('/')}/runs/{run_id}"


def _say(line: str) -> None:
    log(printable(line))


def _follow(arguments: argparse.Namespace, instance: dg.DagsterInstance, run_id: str) -> str | CheckFailed:
    """Shows the run's log until the run has ended, and then what it has made."""
    from aquarat_pipeline.runs import submit

    stream = sys.stderr if arguments.json else sys.stdout
    try:
        for line in submit.watch(instance, run_id):
            print(printable(line), file=stream, flush=True)
    except KeyboardInterrupt:
        status = submit.run_of(instance, run_id).status.value
        left = f"\nThe run continues. To end it: aquarat cancel {run_id[:8]}"
        return answer(arguments, {"run_id": run_id, "status": status}, left)
    run = submit.run_of(instance, run_id)
    made = dict(_made(instance, run))
    facts = {"run_id": run_id, "status": run.status.value, "made": made}
    if run.status.value != "SUCCESS":
        again = f"aquarat launch {' '.join(arguments.assets)}{' --with-parents' if arguments.with_parents else ''}"
        text = f"run {run_id} ended: {run.status.value}. To continue: {again}. Its output: aquarat tail {run_id[:8]}"
        return CheckFailed(answer(arguments, facts, text))
    if arguments.json:
        return json.dumps(facts)
    print(f"run {run_id} ended: SUCCESS", flush=True)
    say_next(made)
    return ""


def _made(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[tuple[str, str]]:
    """Names and manifests of the assets that the run has made."""
    import dagster as dg

    from aquarat_pipeline.events import manifest_of

    for record in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records:
        made = record.event_log_entry.asset_materialization
        if made is not None:
            yield made.asset_key.to_user_string(), manifest_of(made) or ""


def say_next(assets: Iterable[str]) -> None:
    """Says which commands one may want after those assets were made."""
    last = {asset.rpartition("/")[2]: asset for asset in assets}
    reports = [asset for name, asset in last.items() if name.endswith("_report")]
    models = [asset for name, asset in last.items() if name.endswith("_checkpoint") or name == "model_release"]
    steps: list[tuple[str, str]] = []
    if reports:
        steps.append(("its report", f"aquarat report {reports[-1]}"))
    if models:
        steps.append(("talk with it", f"aquarat chat {models[-1]}"))
    if last:
        steps.append(("what it was made from", f"aquarat lineage {[*last.values()][-1]}"))
    if steps:
        log("\n".join(["Where to look next:", *(f"  {what + ':':<23}{command}" for what, command in steps)]))


def _tail(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline.runs import submit, tailing

    with open_instance() as instance:
        run = submit.find_run(instance, arguments.run_id)
        if not arguments.follow or run.is_finished:
            lines = list(tailing.last_lines(Path(instance.root_directory), run, arguments.lines))
            return answer(arguments, {"run_id": run.run_id, "lines": lines}, "\n".join(lines))
        for line in tailing.follow(instance, run.run_id):
            print(json.dumps({"line": line}) if arguments.json else printable(line), flush=True)
        status = submit.run_of(instance, run.run_id).status.value
        return answer(arguments, {"run_id": run.run_id, "status": status}, f"run {run.run_id} ended: {status}")


def _cancel(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline.runs import submit

    with open_instance() as instance:
        run = submit.find_run(instance, arguments.run_id)
        status = submit.cancel(instance, run).value
        return answer(arguments, {"run_id": run.run_id, "status": status}, f"run {run.run_id}: {status}")


def daemon_is_alive(instance: dg.DagsterInstance) -> bool:
    """Whether the daemon that starts queued runs has shown a sign of life lately."""
    beat = instance.get_daemon_heartbeats().get("QUEUED_RUN_COORDINATOR")
    return beat is not None and time.time() - beat.timestamp < HEARTBEAT_SECONDS


# --- completion -----------------------------------------------------------------------------------------------------


def _known_runs() -> Iterable[str]:
    from aquarat_pipeline.home import dagster_home
    from aquarat_pipeline.runs.records import Records

    found: list[Any] = Records(dagster_home()).runs(time.time() - 7 * 86400)
    return (run.run_id[:8] for run in found)
