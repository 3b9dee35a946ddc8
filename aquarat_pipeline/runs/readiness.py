"""Checks before the first stage whether hosts, store and disk are sufficient for all stages of a run.

`aquarat launch` and `./run demo` check before anything is queued or made; the executor checks at the start of every
run, however it was started. A run waits for a host that is busy or down, and for one of a pool of rent.yaml that could
serve it, but not for another that is not in the inventory or whose rental ends too soon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from aquarat_core.artifacts import ArtifactError, ArtifactStore, Manifest
from aquarat_core.config import Profile, load_profile, profile_names, same_config
from aquarat_core.errors import UserError
from aquarat_core.stages.costs import Sections, cost_of
from aquarat_core.stages.registry import STAGES, Stage
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.hosts.host import Host, RentedHost
from aquarat_pipeline.hosts.inventory import FILE, read_inventory
from aquarat_pipeline.hosts.queueing import together
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.renting.config import budget_micros
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.runs import disk_space, estimates
from aquarat_pipeline.runs.rentable import Rentable, pools_beside, rentable
from aquarat_pipeline.tags import HOST_TAG, POOL_TAG


class NotReadyError(UserError):
    """A run that could not be completed; the message says what it lacks and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """The requirements of some of a run's stages, and the hosts that meet them."""

    need: Requirement
    stages: tuple[str, ...]
    hosts: tuple[Host, ...]
    pool: Rentable | None = None
    """From which hosts are rented, if there are too few."""

    @property
    def names(self) -> str:
        """The hosts, or from where they come."""
        rented = [f"rented from {self.pool.name}"] if self.pool else []
        return ", ".join([*(host.display_name for host in self.hosts), *rented])


def check(home: Path, plan: Plan, say: Callable[[str], None]) -> None:
    """Reports in a few lines what the run needs and about how long it takes.

    Raises a `UserError` with what to do if the run could not be completed: `NotReadyError`, or an error of the
    inventory, the store or the config.
    """
    if not plan.stages:
        return
    costs = {stage.name: cost_of(stage.name, plan.sections) for stage in plan.stages}
    places = places_of(home, plan)
    store = ArtifactStore.open(plan.store)
    store.check_writable()
    made = made_before(store, plan)
    disks = disk_space.needed(home, store.uri, plan.sections, costs, made, _run_here(plan, places))
    if short := next((disk for disk in disks if disk.needs > disk.free), None):
        raise NotReadyError(short.complaint())
    wandb = (getattr(plan.sections[stage.name], "wandb", None) for stage in plan.stages)
    notice = estimates.wandb_notice({section.mode for section in wandb if section})
    for line in (*estimates.lines(plan.stages, places, store.uri, costs, made, disks), *filter(None, [notice])):
        say(line)


def places_of(home: Path, plan: Plan) -> list[Place]:
    """Where the distributed stages can run.

    Raises `NotReadyError` or `NotRentableError` if some can run nowhere, `InventoryError` and `RentConfigError`.
    """
    hosts = read_inventory(home).hosts
    listed = _listed(home / FILE, hosts)
    hosts = tuple(host for host in hosts if not host.why_no_job(time.time()))
    asked = plan.tags.get(HOST_TAG)
    if asked is not None and asked not in {host.name for host in hosts}:
        raise NotReadyError(f"the run asks for the host {asked}, but {listed}. Name one of these, or add it there")
    budget = budget_micros(plan.tags)
    places = [
        place if len(place.hosts) >= place.need.nodes else _rented(home, place, budget)
        for place in _grouped(plan.stages, plan.sections, plan.tags, hosts)
    ]
    lacking = [place for place in places if len(place.hosts) < place.need.nodes and place.pool is None]
    if not lacking:
        return places
    needs = "; ".join(f"{', '.join(place.stages)}: {place.need}" for place in lacking)
    labels = {label for host in hosts for label in host.labels}
    pools = pools_beside(home, lacking[0].need, labels)
    raise NotReadyError(
        f"no host could ever run these stages ({needs}): {listed}.{pools} {_way_out(plan, hosts, lacking)}"
    )


def _rented(home: Path, place: Place, budget: int | None) -> Place:
    return replace(place, pool=rentable(home, place.need, None if budget is None else Money(budget)))


def _listed(where: Path, hosts: Sequence[Host]) -> str:
    own = ", ".join(_described(host) for host in hosts if not isinstance(host, RentedHost))
    said = f"{where} lists {own}" if where.exists() else f"without {where} there is only this machine: {own}"
    rented = ", ".join(_described(host) for host in hosts if isinstance(host, RentedHost))
    return f"{said}; rented: {rented}" if rented else said


def _grouped(
    stages: Iterable[Stage], sections: Sections, tags: Mapping[str, str], hosts: Iterable[Host]
) -> list[Place]:
    """The distributed stages among `stages`, grouped by their requirements."""
    found: dict[Requirement, list[str]] = {}
    for stage in stages:
        if stage.distributed:
            config = sections[stage.name]
            need = Requirement.of(stage, config.model_dump(mode="json") if config else None, tags)
            found.setdefault(need, []).append(stage.name)
    return [
        Place(need, tuple(names), tuple(together((host for host in hosts if need.fits(host)), need.nodes)))
        for need, names in found.items()
    ]


def _way_out(plan: Plan, hosts: Iterable[Host], lacking: Iterable[Place]) -> str:
    ways = [f"list such a host in {FILE} (docs/hosts.md)"]
    if {HOST_TAG, POOL_TAG} & set(plan.tags):
        ways.append("ask for another host or label")
    if any(place.need.nodes > 1 for place in lacking):
        ways.append("ask for fewer hosts (--nodes)")
    hosts = list(hosts)
    if fitting := [name for name in profile_names() if _fits(load_profile(name), plan, hosts)]:
        ways.append(f"choose a profile whose stages fit ({', '.join(fitting)}; AQUARAT_PROFILE or --profile)")
    ways.append("or lower launch.nproc of these stages")
    way = ", ".join(ways)
    return f"{way[0].upper()}{way[1:]}"


def _fits(profile: Profile, plan: Plan, hosts: list[Host]) -> bool:
    sections = {stage.name: stage.config(profile) for stage in plan.stages}
    return all(len(place.hosts) >= place.need.nodes for place in _grouped(plan.stages, sections, plan.tags, hosts))


def _described(host: Host) -> str:
    gpus = f"{host.gpus} GPU{'s' if host.gpus != 1 else ''}" if host.gpus else "no GPU"
    labels = f", labeled {' '.join(host.labels)}" if host.labels else ""
    why = host.why_no_job(time.time())
    return f"{host.name} ({gpus}{labels}{f'; {why}' if why else ''})"


def _run_here(plan: Plan, places: Iterable[Place]) -> set[str]:
    """Names of the stages that are sure to use this machine's disk."""
    distributed = {
        name
        for place in places
        if place.pool or any(host.transport != "local" for host in place.hosts)
        for name in place.stages
    }
    return {stage.name for stage in plan.stages} - distributed


def made_before(store: ArtifactStore, plan: Plan) -> dict[str, Manifest]:
    """Manifests of assets in the store that this run would make again: with the same config throughout the chain."""
    found: dict[str, Manifest] = {}
    for stage in STAGES.values():
        if not found.keys() >= set(stage.needs(plan.sections[stage.name])):
            continue
        # A damaged artifact is reported by the stage that reads it.
        with suppress(ArtifactError):
            latest, config = store.latest(plan.experiment.ref(stage.name)), plan.sections[stage.name]
            if not latest or latest.manifest.profile != plan.experiment.profile.name:
                continue
            if same_config(config, latest.manifest.config):
                found[stage.name] = latest.manifest
    return found
