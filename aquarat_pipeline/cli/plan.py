"""`aquarat plan`: what `aquarat materialize` would make, why, on which host, how long it takes and what it costs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_pipeline.cli.launch import add_assets, check_typed, open_instance

if TYPE_CHECKING:
    import dagster as dg

    from aquarat_core.artifacts import Manifest
    from aquarat_pipeline.runs.planning import Planned

WHOLE_CHAIN = "pipeline_report"


def add_commands(commands: Commands) -> None:
    """Adds `plan`."""
    plan = commands.add_parser(
        "plan",
        description="Prints which assets would be made and why, on which hosts, how long that takes as far as it is "
        "known, and what it costs. Makes nothing. Exit code 1 if the run could not be completed.",
    )
    add_assets(plan, default=[WHOLE_CHAIN])
    plan.add_argument("--again", action="store_true", help="as if nothing were up to date")
    add_json(plan)
    plan.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> str | CheckFailed:
    # Without a name, the question is about everything.
    with_parents = arguments.with_parents or arguments.assets == [WHOLE_CHAIN]
    check_typed(arguments)
    from aquarat_pipeline.runs.planning import planned

    with open_instance() as instance:
        plan = planned(
            instance, arguments.assets, with_parents=with_parents, again=arguments.again, fields=arguments.fields
        )
        return _answer(arguments, plan, instance)


def _answer(arguments: argparse.Namespace, plan: Planned, instance: dg.DagsterInstance) -> str | CheckFailed:
    from aquarat_core.durations import ago
    from aquarat_core.errors import UserError

    ref = plan.experiment.ref
    kept = {ref(name): held.artifact.sha256 for name, held in plan.kept.items()}
    lines = [f"{ref(name)} is fresh, made {ago(held.made)}" for name, held in plan.kept.items()]
    if not plan.wanted:
        return answer(arguments, {"make": [], "fresh": kept}, "\n".join([*lines, "Nothing would be made."]))
    said: list[str] = []
    problem = None
    makes: list[dict[str, Any]] = [{"asset": ref(name), "why": plan.why[name]} for name in plan.wanted]
    try:
        facts = _checked(plan, instance, said)
        makes = [make | facts[name] for make, name in zip(makes, plan.wanted, strict=True)]
    except UserError as e:
        problem = str(e)
    rows = [(m["asset"], m.get("host") or "-", _seconds(m.get("seconds_before")), m["why"]) for m in makes]
    text = "\n".join([table([("asset", "host", "took before", "why"), *rows]), "", *lines, *said])
    machine = {"make": makes, "fresh": kept, "requirements": said, "problem": problem}
    if problem:
        return CheckFailed(
            answer(arguments, machine, f"{text}\n\nIt could not be made: {problem}".replace("\n\n\n", "\n\n"))
        )
    return answer(arguments, machine, text)


def _checked(plan: Planned, instance: dg.DagsterInstance, said: list[str]) -> dict[str, dict[str, Any]]:
    """Where each stage would run, and how long it took before. Adds to `said` what the run needs.

    Raises the `UserError` of a run that could not be completed.
    """
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_pipeline.assets.plan import Plan
    from aquarat_pipeline.runs import readiness
    from aquarat_pipeline.runs.submit import config_of

    experiment, home = plan.experiment, Path(instance.root_directory)
    steps = [*map(experiment.step, plan.wanted)]
    asked = Plan.of(steps, experiment, {}, config_of(experiment, plan.fields, steps))
    readiness.check(home, asked, said.append)
    hosts = {
        name: ", ".join(host.display_name for host in place.hosts)
        for place in readiness.places_of(home, asked)
        for name in place.stages
    }
    made = readiness.made_before(ArtifactStore.open(asked.store), asked)
    return {
        name: {"host": hosts.get(name, "this machine"), "seconds_before": _took(made.get(name))} for name in plan.wanted
    }


def _took(made: Manifest | None) -> float | None:
    """The seconds that the stage took when it was last made with the same config."""
    seconds = made.metrics.get("seconds") if made else None
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _seconds(seconds: float | None) -> str:
    from aquarat_core.durations import duration

    return "-" if seconds is None else duration(seconds)
