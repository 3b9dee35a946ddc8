"""`aquarat status`: assets, runs, hosts, disk and today's cost on one screen."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer
from aquarat_core.cli.table import short_size, table

if TYPE_CHECKING:
    from aquarat_pipeline.runs.state import AssetState, ExperimentState, HostState, RentalState, RunState, State

WIDTH = 80
_INDENT = 10


def add_commands(commands: Commands) -> None:
    """Adds `status`."""
    command = commands.add_parser(
        "status",
        description="Prints every asset with its age, freshness and figure, the runs that wait or work, the hosts that "
        "they use, what is rented, free disk, and what hosts with a price have cost today.",
    )
    add_store(command)
    add_json(command)
    command.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline.home import dagster_home
    from aquarat_pipeline.runs.state import state_of

    state = state_of(dagster_home(), arguments.store)
    return answer(arguments, dataclasses.asdict(state), "\n".join(_lines(state)))


def _lines(state: State) -> Iterator[str]:
    for experiment in state.experiments:
        yield from _experiment(experiment)
        yield ""
    if not any(asset.created for e in state.experiments for asset in e.assets):
        yield "Nothing is made yet. `./run demo` makes everything; `aquarat plan` shows how."
        yield ""
    yield from _labeled("runs", (part for run in state.runs for part in _run(run)))
    if not state.daemon:
        waiting = sum(run.status == "QUEUED" for run in state.runs)
        what = f"{waiting} queued run{'s' if waiting > 1 else ''}" if waiting else "what `aquarat launch` queues"
        yield from _labeled("", [f"no Dagster daemon is running, so {what} will not start: `./run dev` has one"])
    yield from _labeled("hosts", map(_host, state.hosts))
    if state.rented:
        yield from _labeled("rented", map(_rental, state.rented))
    yield from _labeled("disk", (f"{short_size(d.free)} free of {short_size(d.total)}, {d.path}" for d in state.disks))
    yield from _labeled(
        "store", [state.store if state.store_exists else f"{state.store} (there is no such folder yet)"]
    )
    if state.dollars_today is not None:
        yield from _labeled("cost", [f"${state.dollars_today:,.2f} today, by price_per_hour of the hosts"])
    if state.problems:
        yield from _labeled("problems", state.problems)


def _experiment(experiment: ExperimentState) -> Iterator[str]:
    name = experiment.experiment or "main experiment"
    yield f"{name}, profile {experiment.profile}"
    yield table([("asset", "age", "state", "result"), *map(_asset, experiment.assets)])
    reasons: dict[str, list[str]] = {}
    for asset in experiment.assets:
        if asset.why:
            reasons.setdefault(asset.why, []).append(asset.asset.rpartition("/")[2])
    for why, assets in reasons.items():
        yield textwrap.fill(f"{', '.join(assets)}: {why}", WIDTH, initial_indent="  ", subsequent_indent="    ")


def _asset(asset: AssetState) -> tuple[str, ...]:
    from aquarat_core.durations import age

    return asset.asset.rpartition("/")[2], age(asset.created) if asset.created else "", asset.state, asset.headline


def _run(run: RunState) -> Iterator[str]:
    from aquarat_core.durations import duration

    profile = f", profile {run.profile}" if run.profile else ""
    since = duration(time.time() - run.since)
    state = {"STARTED": "running", "CANCELING": "being cancelled"}.get(run.status, run.status.lower())
    yield f"{run.run_id[:8]} {state} for {since}: {run.what}{profile}"
    if run.waits_for:
        yield f"  waits for {run.waits_for}"
    elif run.step:
        done = f" {run.done:,} of {run.total:,} {run.unit}" if run.total else ""
        left = f", about {duration(run.seconds_left)} left" if run.seconds_left else ""
        yield f"  {run.step}{done}{left}"


def _host(host: HostState) -> str:
    gpus = f"{host.gpus} GPU{'s' if host.gpus != 1 else ''}" if host.gpus else "no GPU"
    price = f", ${host.price_per_hour:g}/h" if host.price_per_hour else ""
    used = f"used by run {', '.join(run[:8] for run in host.runs)}" if host.runs else "free"
    return f"{host.name} ({gpus}{price}): {used}"


def _rental(one: RentalState) -> str:
    from aquarat_core.durations import duration

    left = one.end - time.time()
    ends = f"ends in {duration(left)}" if left > 0 else "should have ended"
    name = f"{one.rental} ({one.label})" if one.label else one.rental
    return f"{name}: {one.type}, {one.state}, ${one.dollars_per_hour:.2f}/h, {ends}, ${one.dollars:.2f} so far"


def _labeled(label: str, texts: Iterable[str]) -> Iterator[str]:
    """The texts beside a label, wrapped to the width of the page; `none` without a text."""
    for n, text in enumerate(list(texts) or ["none"]):
        head = f"{'' if n else label:<{_INDENT}}"
        inner = " " * (_INDENT + len(text) - len(text.lstrip()))
        yield textwrap.fill(
            text, WIDTH, initial_indent=head, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False
        )
