"""The state of everything at a glance: assets of all experiments, runs, hosts, disk and what today has cost.

Reads manifests, Dagster's SQLite files and the folders of running jobs, and asks no other machine except the store's.
Imports no Dagster, which takes as long as all of this.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, JobDir, StoreError
from aquarat_core.artifacts.survey import read_artifacts, refs
from aquarat_core.config import load_profile
from aquarat_core.errors import UserError
from aquarat_core.evaluation.headline import headline
from aquarat_core.serving.runs.messages import progress_message
from aquarat_core.settings import cache_dir
from aquarat_core.stages.freshness import why_stale
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline import experiments
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.hosts.inventory import Host, InventoryError, read_inventory
from aquarat_pipeline.hosts.queueing import WAITING
from aquarat_pipeline.renting import costs
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.phases import phase
from aquarat_pipeline.runs.records import UNFINISHED, Records, RecordsError, Run, Step
from aquarat_pipeline.tags import DECIDED_TAG, EXPERIMENT_TAG, JOB_TAG, PROFILE_TAG

BEAT_SECONDS = 120.0
"""A daemon whose last report is older is not running; it reports every 30 s."""
CHUNKS = 8
"""Chunks of a job's output that are searched for its last report of progress."""


@dataclass(frozen=True, slots=True)
class AssetState:
    """An asset's latest artifact, if there is one."""

    asset: str
    """Its name with that of the experiment."""
    state: str
    """`fresh`, `stale`, `adopted`, `missing` or `damaged`."""
    why: str = ""
    created: str = ""
    headline: str = ""
    manifest_sha256: str = ""


@dataclass(frozen=True, slots=True)
class ExperimentState:
    experiment: str
    profile: str
    assets: list[AssetState]


@dataclass(frozen=True, slots=True)
class RunState:
    """A run that waits or works."""

    run_id: str
    status: str
    experiment: str
    profile: str
    what: str
    """Its asset, the number of its assets, or its job."""
    since: float
    step: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds_left: float | None = None
    """Of the step, if it goes on as fast as until now."""
    waits_for: str = ""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostState:
    name: str
    gpus: int
    price_per_hour: float
    runs: list[str]
    """The runs that use it, by this control host's records; other control hosts are not asked."""


@dataclass(frozen=True, slots=True)
class RentalState:
    """A rental that costs money, or may do so."""

    rental: str
    label: str
    type: str
    state: str
    dollars_per_hour: float
    end: float
    """In seconds since 1970."""
    dollars: float
    """What it has cost so far, by our own count."""


@dataclass(frozen=True, slots=True)
class DiskState:
    path: str
    free: int
    total: int


@dataclass(slots=True)
class State:
    store: str
    store_exists: bool
    """Whether the folder of a store on this machine exists."""
    experiments: list[ExperimentState] = field(default_factory=list[ExperimentState])
    runs: list[RunState] = field(default_factory=list[RunState])
    hosts: list[HostState] = field(default_factory=list[HostState])
    rented: list[RentalState] = field(default_factory=list[RentalState])
    disks: list[DiskState] = field(default_factory=list[DiskState])
    dollars_today: float | None = None
    """What hosts with a price have cost since midnight; None if no host has a price."""
    daemon: bool = False
    """Whether the daemon runs that starts queued runs."""
    problems: list[str] = field(default_factory=list[str])


def state_of(home: Path, store_uri: str) -> State:
    """Everything. Raises `StoreError` for a store that cannot be read; other problems are in the result."""
    store = ArtifactStore.open(store_uri)
    folder = store.uri.removeprefix("file://")
    state = State(store.uri, folder == store.uri or Path(folder).is_dir(), disks=_disks(home, store.uri))
    latest = _latest(store, state.problems)
    for experiment in _experiments(state.problems):
        state.experiments.append(_experiment(experiment, latest))
    hosts: tuple[Host, ...] = ()
    try:
        hosts = read_inventory(home).hosts
        _add_runs(state, Records(home), hosts)
    except (InventoryError, RecordsError) as e:
        state.problems.append(str(e))
    _add_rentals(state, home)
    state.hosts = [
        HostState(h.name, h.gpus, h.price_per_hour, [r.run_id for r in state.runs if h.name in r.hosts]) for h in hosts
    ]
    return state


def _add_rentals(state: State, home: Path) -> None:
    now, loaded = time.time(), Ledger(home).load()
    state.problems += loaded.problems
    state.rented = [
        RentalState(
            one.id, one.order.label, one.order.offer.type, phase(one, now), one.hourly.micros / 1e6, one.end,
            costs.accrued(one, now).micros / 1e6,
        )
        for one in loaded.rentals
        if not one.final
    ]  # fmt: skip


# --- assets ---------------------------------------------------------------------------------------------------------


def _latest(store: ArtifactStore, problems: list[str]) -> dict[str, Artifact | ArtifactError]:
    """The latest artifact of every asset by its name; an error for one that cannot be read."""
    named = refs(store)
    hashes = {name: ref.manifest_sha256 for name, ref in named.items() if not isinstance(ref, ArtifactError)}
    found = read_artifacts(store, hashes.values())
    latest = {name: ref if isinstance(ref, ArtifactError) else found[hashes[name]] for name, ref in named.items()}
    problems += [f"{name}: {one}" for name, one in latest.items() if isinstance(one, ArtifactError)]
    return latest


def _experiments(problems: list[str]) -> Iterable[Experiment]:
    problems += [f"{name}: {why}" for name, why in experiments.damaged().items()]
    for name, profile in {"": None, **experiments.registered()}.items():
        try:
            yield Experiment(load_profile(profile), name)
        except UserError as e:
            problems.append(f"{name or 'the main experiment'}: {e}")


def _experiment(experiment: Experiment, latest: Mapping[str, Artifact | ArtifactError]) -> ExperimentState:
    own = {asset: artifact for asset in STAGES if isinstance(artifact := latest.get(experiment.ref(asset)), Artifact)}
    found: dict[str, AssetState] = {}
    # In the table, every stage comes after its inputs.
    for asset in experiment.stages:
        found[asset] = _asset(experiment, asset, latest.get(experiment.ref(asset)), own, found)
    return ExperimentState(experiment.name, experiment.profile.name, list(found.values()))


def _asset(
    experiment: Experiment,
    asset: str,
    artifact: Artifact | ArtifactError | None,
    latest: Mapping[str, Artifact],
    before: Mapping[str, AssetState],
) -> AssetState:
    name, stage = experiment.ref(asset), STAGES[asset]
    if artifact is None:
        return AssetState(name, "missing")
    if isinstance(artifact, ArtifactError):
        return AssetState(name, "damaged", str(artifact))
    why = why_stale(artifact, stage, stage.config(experiment.profile), latest)
    if why is None and not artifact.manifest.adopted_from:
        inputs = [before[one].state for one in experiment.inputs(asset) if one in before]
        why = "some inputs are stale" if {"stale", "missing"} & set(inputs) else None
    state = "stale" if why else "adopted" if artifact.manifest.adopted_from else "fresh"
    manifest = artifact.manifest
    return AssetState(name, state, why or "", manifest.created, headline(manifest.metrics), artifact.sha256)


# --- runs -----------------------------------------------------------------------------------------------------------


def _add_runs(state: State, records: Records, hosts: Iterable[Host]) -> None:
    beat = records.daemon_beat()
    state.daemon = beat is not None and time.time() - beat < BEAT_SECONDS
    midnight = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    prices = {host.name: host.price_per_hour for host in hosts if host.price_per_hour}
    state.dollars_today = 0.0 if prices else None
    for run in records.runs(midnight):
        steps = records.steps(run.run_id)
        if run.status in UNFINISHED:
            state.runs.append(_run(run, steps, records))
        if prices:
            state.dollars_today = (state.dollars_today or 0.0) + _dollars(run, steps, prices, midnight)


def _run(run: Run, steps: Iterable[Step], records: Records) -> RunState:
    current = next((step for step in reversed(list(steps)) if step.ended is None), None)
    job = _job(run, current) if current else None
    line = "" if job else records.last_line(run.run_id)
    done, total, unit = _progress(job) if job else (0, 0, "")
    left = None
    if current and 0 < done <= total:
        left = (time.time() - current.began) / done * (total - done)
    return RunState(
        run_id=run.run_id,
        status=run.status,
        experiment=run.tags.get(EXPERIMENT_TAG, ""),
        profile=run.tags.get(PROFILE_TAG, ""),
        what=_what(run),
        since=run.started or run.created,
        step=current.key.replace("__", "/") if current else "",
        done=done,
        total=total,
        unit=unit,
        seconds_left=left,
        waits_for=line.removeprefix(WAITING) if line.startswith(WAITING) else "",
        hosts=_hosts(job) if job else (),
    )


def _what(run: Run) -> str:
    match run.assets:
        case ():
            return run.job
        case (asset,):
            return asset
        case _:
            return f"{len(run.assets)} assets"


def _job(run: Run, step: Step) -> JobDir | None:
    """The job of the step, once a host has started it; None while the step waits for one."""
    with suppress(UserError, KeyError):
        job = JobDir.at(run.tags[JOB_TAG])
        if f"/{step.key}/" in job.prefix and job.read_json("status/node0.json") is not None:
            return job
    return None


def _hosts(job: JobDir) -> tuple[str, ...]:
    """The hosts that were last asked to run the job."""
    with suppress(UserError, TypeError, KeyError):
        held: Any = job.read_json("hosts.json") or {}
        return tuple(map(str, held["hosts"]))
    return ()


def _progress(job: JobDir) -> tuple[int, int, str]:
    """What is done, of how much, and in which unit, by the job's last report; zeros without one."""
    with suppress(UserError, AttributeError, TypeError, ValueError):
        cursor: Any = job.read_json("cursor.json") or {}
        shown = int(cursor.get("node0", 0))
        for number in range(shown, max(0, shown - CHUNKS), -1):
            chunk: Any = job.read_json(f"output/node0/{number:06d}.json") or {}
            for message in reversed(chunk.get("messages", [])):
                if found := progress_message(message):
                    return found["done"], found["total"], found["unit"]
    return 0, 0, ""


def _dollars(run: Run, steps: Iterable[Step], prices: Mapping[str, float], since: float) -> float:
    """What the hosts of a run's steps have cost after `since`, by the last attempt of each step."""
    base = run.tags.get(JOB_TAG, "").rpartition("/jobs/")[0]
    total = 0.0
    for step in steps:
        seconds = (step.ended or run.ended or time.time()) - max(step.began, since)
        number = _attempt(run.tags.get(DECIDED_TAG + step.key))
        if base and number and seconds > 0:
            with suppress(StoreError):
                job = JobDir.at(f"{base}/jobs/{run.run_id}/{step.key}/{number}")
                total += seconds / 3600 * sum(prices.get(host, 0.0) for host in _hosts(job))
    return total


def _attempt(decided: str | None) -> int | None:
    with suppress(ValueError, TypeError, KeyError):
        return int(json.loads(decided)["number"]) if decided else None
    return None


# --- disk -----------------------------------------------------------------------------------------------------------


def _disks(home: Path, store: str) -> list[DiskState]:
    """The file systems that runs write to, each once."""
    folders = [home, cache_dir(), *([Path(store.removeprefix("file://"))] if store.startswith("file://") else [])]
    found: dict[int, DiskState] = {}
    for folder in folders:
        there = next((path for path in (folder, *folder.parents) if path.exists()), None)
        if there is not None:
            usage = shutil.disk_usage(there)
            found.setdefault(os.stat(there).st_dev, DiskState(str(folder), usage.free, usage.total))
    return list(found.values())
