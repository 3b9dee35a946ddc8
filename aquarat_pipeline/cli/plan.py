"""`aquarat plan`: what `aquarat materialize` would make, why, on which host, how long it takes and what it costs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_pipeline.cli import forecast
from aquarat_pipeline.cli.runs import add_assets, add_hosts, check_typed, tags_of
from aquarat_pipeline.instance import open_instance

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
        "known, and what it costs. Makes nothing. Exit code 1 if the run could not be completed; for GPUs that need "
        "not be there, if a stage does not fit into them.",
    )
    add_assets(plan, default=[WHOLE_CHAIN])
    plan.add_argument("--again", action="store_true", help="as if nothing were up to date")
    add_hosts(plan)
    forecast.add_options(plan)
    add_json(plan)
    plan.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> str | CheckFailed:
    # Without a name, the question is about everything.
    return show(arguments, arguments.with_parents or arguments.assets == [WHOLE_CHAIN], arguments.again)


def show(arguments: argparse.Namespace, with_parents: bool, again: bool) -> str | CheckFailed:
    """What `aquarat plan` answers, and `aquarat launch --plan` too."""
    check_typed(arguments)
    tags = tags_of(arguments)
    from aquarat_pipeline.runs.planning import planned

    with open_instance() as instance:
        plan = planned(instance, arguments.assets, with_parents=with_parents, again=again, fields=arguments.fields)
        return _answer(arguments, plan, instance, tags)


def _answer(
    arguments: argparse.Namespace, plan: Planned, instance: dg.DagsterInstance, tags: dict[str, str]
) -> str | CheckFailed:
    from aquarat_core.durations import ago
    from aquarat_core.errors import UserError

    ref = plan.experiment.ref
    kept = {ref(name): held.artifact.sha256 for name, held in plan.kept.items()}
    lines = [f"{ref(name)} is fresh, made {ago(held.made)}" for name, held in plan.kept.items()]
    if not plan.wanted:
        return answer(arguments, {"make": [], "fresh": kept}, "\n".join([*lines, "Nothing would be made."]))
    said: list[str] = []
    rentals: list[dict[str, Any]] = []
    problem = None
    makes: list[dict[str, Any]] = [{"asset": ref(name), "why": plan.why[name]} for name in plan.wanted]
    try:
        facts = _checked(plan, instance, tags, said, rentals)
        makes = [make | facts[name] for make, name in zip(makes, plan.wanted, strict=True)]
    except UserError as e:
        problem = str(e)
    rows = [(m["asset"], m.get("host") or "-", _time(m), m["why"]) for m in makes]
    when = "time" if rentals else "took before"
    text = "\n".join([table([("asset", "host", when, "why"), *rows]), "", *lines, *said])
    machine = {"make": makes, "fresh": kept, "requirements": said, "problem": problem}
    machine |= {"rentals": rentals} if rentals else {}
    computed = forecast.computed(arguments, plan)
    text = f"{text}{computed.text}"
    if problem and computed.numbers and forecast.is_asked(arguments):
        # The question is about other GPUs than those of this inventory.
        text += f"\n\nIt could not be made with what is here now: {problem}"
        machine |= {"missing_here": problem}
        problem = None
    problem = "; ".join(filter(None, (problem, computed.problem))) or None
    machine |= {"computed": computed.numbers, "problem": problem}
    if problem:
        return CheckFailed(
            answer(arguments, machine, f"{text}\n\nIt could not be made: {problem}".replace("\n\n\n", "\n\n"))
        )
    return answer(arguments, machine, text)


def _checked(
    plan: Planned, instance: dg.DagsterInstance, tags: dict[str, str], said: list[str], rentals: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Where each stage would run, and how long it took before. Adds to `said` what the run needs, and to `rentals` what
    would be rented for it.

    Raises the `UserError` of a run that could not be completed.
    """
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_pipeline.assets import reuse
    from aquarat_pipeline.assets.plan import Plan
    from aquarat_pipeline.runs import prices, readiness
    from aquarat_pipeline.runs.submit import config_of

    experiment, home = plan.experiment, Path(instance.root_directory)
    steps = [*map(experiment.step, plan.wanted)]
    asked = Plan.of(steps, experiment, tags, config_of(experiment, plan.fields, steps))
    readiness.check(home, asked, said.append)
    said += reuse.lines(instance, asked)
    places = readiness.places_of(home, asked)
    hosts = {name: place.names for place in places for name in place.stages}
    made = readiness.made_before(ArtifactStore.open(asked.store), asked)
    facts: dict[str, dict[str, Any]] = {
        name: {"host": hosts.get(name, "this machine"), "seconds_before": _took(made.get(name))} for name in plan.wanted
    }
    for one in prices.of_run(home, asked, places, made):
        said += prices.lines(one)
        rentals.append(prices.machine(one))
        for name, time in one.stages.items():
            facts[name] |= {"seconds": time.seconds, "basis": time.basis}
    return facts


def _took(made: Manifest | None) -> float | None:
    """The seconds that the stage took when it was last made with the same config."""
    seconds = made.metrics.get("seconds") if made else None
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _time(make: dict[str, Any]) -> str:
    """How long the stage takes where it is rented for, with where that is known from; else how long it took before."""
    from aquarat_core.durations import duration

    seconds = make.get("seconds", make.get("seconds_before"))
    basis = f" ({make['basis']})" if "basis" in make else ""
    return "-" if seconds is None else f"{duration(seconds)}{basis}"
