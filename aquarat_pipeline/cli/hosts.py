"""`aquarat hosts`: the inventory, the state of its hosts, their leases, and preparing a bare host."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aquarat_core.agent.protocol import DoctorReply, DoctorRequest
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.table import table
from aquarat_core.plain_text import printable
from aquarat_core.settings import REPO_ROOT, store_uri
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.inventory import Host, InventoryError, read_inventory
from aquarat_pipeline.hosts.transports import HostError


def add_commands(commands: Commands) -> None:
    """Adds `hosts list`, `doctor`, `leases`, `release` and `prepare`."""
    hosts = commands.add_parser("hosts", help="list, check and prepare the training hosts; show their leases")
    actions = hosts.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="the inventory").set_defaults(run=_list)
    for name, run, what in (
        ("doctor", _doctor, "GPUs, driver, torch, NCCL, disk, clock and access to the store"),
        ("leases", _leases, "which jobs use which GPUs"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("hosts", nargs="*", metavar="HOST", help="all hosts if none is named")
        action.set_defaults(run=run)
    release = actions.add_parser("release", help="end the job that holds a lease, and release it")
    release.add_argument("host", metavar="HOST")
    release.add_argument("lease", metavar="LEASE", help="its id, as `aquarat hosts leases` shows it")
    release.set_defaults(run=_release)
    prepare = actions.add_parser("prepare", help="install the project on a bare host")
    prepare.add_argument("host", metavar="HOST")
    prepare.set_defaults(run=_prepare)


def _list(_: argparse.Namespace) -> str:
    rows = [
        (host.name, host.transport, host.address or "", f"{host.gpus} {host.gpu_kind or ''}".strip(),
         " ".join(host.labels), f"{host.price_per_hour:.2f}", str(host.max_leases))
        for host in read_inventory(_home()).hosts
    ]  # fmt: skip
    return table([("host", "transport", "address", "gpus", "labels", "$/hour", "leases"), *rows])


def examine(host: Host) -> DoctorReply:
    """The host's own report: facts, and problems as sentences."""
    return HostAgent(host).doctor(_questions(host), seconds=180)


def _doctor(arguments: argparse.Namespace) -> str:
    def describe(host: Host) -> tuple[str, bool]:
        answer = examine(host)
        facts = "  ".join(f"{name} {value}" for name, value in answer["facts"].items() if value is not None)
        lines = [f"{host.name}: {facts}", *(f"  problem: {problem}" for problem in answer["problems"])]
        return "\n".join(lines), not answer["problems"]

    return _report(_each(arguments.hosts, describe))


def _leases(arguments: argparse.Namespace) -> str:
    def ask(host: Host) -> tuple[str, bool]:
        leases = HostAgent(host).leases()["leases"]
        said = [
            f"{host.name}: {lease['id']}  {lease['step']} of run {lease['owner']}"
            f"  GPUs {','.join(map(str, lease['gpus'])) or 'none'}  {lease['seconds_left']:.0f} s without renewal"
            for lease in leases
        ]
        return "\n".join(said) or f"{host.name}: free", True

    return _report(_each(arguments.hosts, ask))


def _release(arguments: argparse.Namespace) -> str:
    host = read_inventory(_home()).get(arguments.host)
    answer = _reached(host, lambda: HostAgent(host).release(arguments.lease))
    if answer["state"] == "unknown":
        raise InventoryError(f"{host.name} has no lease {arguments.lease}: see `aquarat hosts leases {host.name}`")
    if answer["state"] == "held":
        raise InventoryError(f"{host.name} still holds {arguments.lease}: its processes did not end; try again")
    return f"{host.name}: {arguments.lease} is released"


def _prepare(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline.hosts.prepare import prepare

    host = read_inventory(_home()).get(arguments.host)
    done = _reached(host, lambda: prepare(host, REPO_ROOT, lambda line: print(printable(line), flush=True)))
    return f"{done}\n{_doctor(argparse.Namespace(hosts=[host.name]))}"


def _questions(host: Host) -> DoctorRequest:
    return {
        "name": host.name,
        "interpreter": host.interpreter,
        "gpus": host.gpus,
        "store": store_uri(),
        "here": host.transport == "local",
        "min_free_bytes": int(host.min_free_gb * 1e9),
        # Only checked if jobs on several hosts are intended: the inventory then says how the hosts reach each other.
        "meeting": (host.network_address, host.rendezvous_port) if host.network_address else None,
        "time": time.time(),
    }


def _each(names: list[str], ask: Callable[[Host], tuple[str, bool]]) -> Iterable[tuple[str, bool]]:
    """Asks the named hosts, or all, in parallel; an unreachable host becomes a line of output too."""
    inventory = read_inventory(_home())
    hosts = [inventory.get(name) for name in names] or list(inventory.hosts)

    def safely(host: Host) -> tuple[str, bool]:
        try:
            return ask(host)
        except HostError as e:
            return f"{host.name}: {e}", False

    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        return list(pool.map(safely, hosts))


def _report(answers: Iterable[tuple[str, bool]]) -> str:
    text = "\n".join(text for text, _ in answers)
    if not all(well for _, well in answers):
        print(printable(text))
        raise InventoryError("not all hosts are ready: see the problems above")
    return text


def _reached(host: Host, do: Callable[[], Any]) -> Any:
    try:
        return do()
    except HostError as e:
        raise InventoryError(str(e)) from None


def _home() -> Path:
    if not os.environ.get("DAGSTER_HOME"):
        raise InventoryError("DAGSTER_HOME, the folder of hosts.yaml, is not set: run this inside `./run shell`")
    return Path(os.environ["DAGSTER_HOME"])
