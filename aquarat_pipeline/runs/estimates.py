"""Estimates what a run needs and how long it takes before its first stage: lower bounds and measured speeds.

Every estimate states its basis. A time is only given if something was measured: the stage itself, made before with the
same config, or training on a kind of GPU with a known peak. Everything else is listed as unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

from aquarat_core.artifacts import Manifest
from aquarat_core.durations import duration
from aquarat_core.runtime.peaks import UTILIZATION, peak_of
from aquarat_core.stages.costs import Cost
from aquarat_core.stages.registry import Stage
from aquarat_pipeline.hosts.requirement import processes
from aquarat_pipeline.runs.disk_space import Disk

if TYPE_CHECKING:
    from aquarat_pipeline.runs.readiness import Place

BASIS = "at 38 % of the bf16 peak (d12 reached that on one H100; no other kind or number of GPUs was measured)"


def lines(
    stages: Sequence[Stage],
    places: Sequence[Place],
    store: str,
    costs: Mapping[str, Cost],
    made: Mapping[str, Manifest],
    disks: Iterable[Disk],
) -> list[str]:
    """The lines about a run that can start."""
    said = [f"hosts: {_hosts(stages, places)}", f"store: {store} can be written"]
    said += [
        f"disk of {disk.path}: at least about {decimal(disk.needs)} to write, {decimal(disk.free)} free"
        for disk in disks
    ]
    if downloads := sum(cost.downloads for name, cost in costs.items() if name not in made):
        said.append(f"downloads: at least about {decimal(downloads)}, less what the Hub's cache has")
    return [*said, f"time: {_time(places, costs, made)}"]


def _hosts(stages: Sequence[Stage], places: Sequence[Place]) -> str:
    local = len(stages) - sum(len(place.stages) for place in places)
    said = [f"{_count(local)} on this machine"] if local else []
    for place in places:
        each = place.need.ranks
        gpus = f"with {each} GPU{'s' if each > 1 else ''}"
        on_gpus = place.need.gpus_on(place.hosts[0]) if place.hosts else place.need.device != "cpu"
        how = gpus if on_gpus else f"in {processes(each)} each"
        where = ", ".join(
            [*(host.display_name for host in place.hosts), *filter(None, [place.pool and str(place.pool)])]
        )
        several = place.need.most_nodes > 1
        nodes = f" on each of {place.need.counted} hosts of" if several else " on"
        nodes = f"{nodes} a host of" if place.pool and not several else nodes
        said.append(f"{_count(len(place.stages))} {how}{nodes} {where}")
    return "; ".join(said)


def _count(stages: int) -> str:
    return f"{stages} stage{'s' if stages > 1 else ''}"


def _time(places: Sequence[Place], costs: Mapping[str, Cost], made: Mapping[str, Manifest]) -> str:
    timed = {
        name: float(seconds)
        for name in costs
        if name in made and isinstance(seconds := made[name].metrics.get("seconds"), (int, float))
    }
    said = [_last_time(timed, made, places)] if timed else []
    left = [name for name in costs if name not in timed]
    for place in places:
        training = [name for name in place.stages if name in left and costs[name].flops]
        if training and (estimate := _on_gpus(place, sum(costs[name].flops for name in training))):
            said.append(f"the training steps of {', '.join(training)} about {estimate}")
            left = [name for name in left if name not in training]
    if left:
        which = f"for {', '.join(left)}" if said else "yet: no stage has been made with this config before"
        said.append(f"not known {which}{_work(left, costs)}")
    return "; ".join(said)


def _last_time(timed: Mapping[str, float], made: Mapping[str, Manifest], places: Sequence[Place]) -> str:
    longest = max(timed, key=lambda name: timed[name])
    facts = made[longest].hardware
    where = f"{facts['gpus']} x {facts['gpu']}" if "gpu" in facts else f"{facts['cores']} cores of {facts['cpu']}"
    priced = sum(timed.get(name, 0.0) * _price(place) for place in places for name in place.stages) / 3600
    return f"about {duration(sum(timed.values()))} for {_count(len(timed))}, as last time on {where}{_dollars(priced)}"


def _on_gpus(place: Place, flops: float) -> str | None:
    """How long and at what cost the host that would be used computes that many FLOPs; None if unknown."""
    if len(place.hosts) < place.need.nodes:
        return None
    host = min(place.hosts, key=lambda host: (host.price_per_hour, host.gpus, host.name))
    gpus = place.need.gpus_on(host) * place.need.nodes
    peak = peak_of(host.gpu_kind) if host.gpu_kind else None
    if not gpus or peak is None:
        return None
    seconds = flops / (UTILIZATION * peak * gpus)
    cost = _dollars(seconds / 3600 * _price(place))
    return f"{duration(seconds)} on {gpus} x {host.gpu_kind}{cost}, {BASIS}"


def _price(place: Place) -> float:
    """Dollars per hour for all hosts used at once."""
    return sum(sorted(host.price_per_hour for host in place.hosts)[: place.need.nodes])


def _dollars(price: float) -> str:
    return f", about ${price:.2g} by price_per_hour" if price else ""


def _work(names: Iterable[str], costs: Mapping[str, Cost]) -> str:
    """The amount of work whose time is unknown, as far as it can be counted."""
    names = list(names)
    flops, tokens = sum(costs[name].flops for name in names), sum(costs[name].sampled for name in names)
    counted = [f"{flops:.1e} FLOPs of training".replace("e+", "e")] if flops else []
    counted += [f"at most {float(f'{tokens:.2g}'):,.0f} sampled tokens"] if tokens else []
    return f" ({', '.join(counted)})" if counted else ""


def wandb_notice(modes: Iterable[str]) -> str | None:
    """A warning that online W&B runs will stay offline because there is no key; None if that is not the case."""
    asked = {os.environ["WANDB_MODE"]} if os.environ.get("WANDB_MODE") else set(modes)
    if "online" not in asked or os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists():
        return None
    return "W&B: mode `online` is requested but WANDB_API_KEY is not set: the runs will be kept offline"
