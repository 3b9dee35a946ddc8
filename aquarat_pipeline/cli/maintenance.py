"""`aquarat refs` and `aquarat prune`: compare the latest artifacts in Dagster and the store; delete old runs."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_core.settings import store_uri

PRUNE_DAYS = 90


def add_commands(commands: Commands) -> None:
    """Adds `refs` and `prune`."""
    refs = commands.add_parser(
        "refs", description="Lists assets whose latest artifact differs between Dagster and the store."
    )
    refs.add_argument("--mend", action="store_true", help="move the store's refs to Dagster's latest")
    add_json(refs)
    refs.set_defaults(run=_refs)
    prune = commands.add_parser(
        "prune", description="Deletes old Dagster runs with their events and logs. Artifacts stay."
    )
    prune.add_argument("--days", type=int, default=PRUNE_DAYS, help=f"keep runs of the last DAYS ({PRUNE_DAYS})")
    prune.add_argument("--delete", action="store_true", help="delete them instead of listing them")
    add_json(prune)
    prune.set_defaults(run=_prune)


def _refs(arguments: argparse.Namespace) -> str | CheckFailed:
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_pipeline.assets.maintenance import differences
    from aquarat_pipeline.instance import open_instance

    store = ArtifactStore.open(store_uri())
    with open_instance() as instance:
        found = differences(instance, store)
        facts = {"differ": [dataclasses.asdict(d) for d in found], "mended": arguments.mend}
        if not found:
            text = f"Dagster and {store.uri} name the same latest artifact of every asset"
            return answer(arguments, facts, text)
        rows = [(d.asset, (d.dagster or "none")[:12], (d.store or "none")[:12], d.problem) for d in found]
        text = table([("asset", "latest in Dagster", "latest in the store", ""), *rows])
        if not arguments.mend:
            text += "\nStages read the first, commands the second. `--mend` moves the refs to the first."
            return CheckFailed(answer(arguments, facts, text))
        for difference in found:
            if difference.dagster:
                store.make_latest(store.get(difference.dagster), difference.asset)
        return answer(arguments, facts, f"{text}\nThe refs of assets that Dagster knows were moved.")


def _prune(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline.assets import maintenance
    from aquarat_pipeline.instance import open_instance
    from aquarat_pipeline.runs.submit import LaunchError

    if arguments.days < 1:
        raise LaunchError("--days must be at least 1")
    with open_instance() as instance:
        runs = maintenance.forgettable(instance, arguments.days)
        where = Path(instance.root_directory)
        facts: dict[str, Any] = {"deleted": arguments.delete, "runs": [run.run_id for run in runs]}
        if not arguments.delete:
            text = f"{len(runs)} runs of {where} ended more than {arguments.days} days ago; `--delete` removes them"
            return answer(arguments, facts, text)
        for run in runs:
            maintenance.forget(instance, run)
        profiles = maintenance.unneeded_profiles(instance)
        for path in profiles:
            path.unlink()
        text = f"{len(runs)} runs of {where} are removed, and {len(profiles)} profiles that only such runs used"
        return answer(arguments, facts | {"profiles": len(profiles)}, text)
