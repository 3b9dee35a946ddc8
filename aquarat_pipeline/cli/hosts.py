"""`aquarat hosts`: the inventory, the state of its hosts, their leases, and preparing a bare host."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aquarat_core.agent.protocol import DrainReply
from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.completion import complete_with
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_core.durations import duration
from aquarat_core.plain_text import printable
from aquarat_core.settings import REPO_ROOT, store_uri
from aquarat_pipeline.cli import rent, rentals, renting
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.host import Host, InventoryError, RentedHost
from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.renting import watching


def add_commands(commands: Commands) -> None:
    """Adds `hosts list`, `doctor`, `leases`, `drain`, `release`, `prepare`, and those for rented hosts."""
    hosts = commands.add_parser("hosts")
    actions = hosts.add_subparsers(required=True, metavar="COMMAND")
    listed = actions.add_parser("list", help="the inventory")
    add_json(listed)
    listed.set_defaults(run=_list)
    for name, run, what in (
        ("doctor", _doctor, "GPUs, driver, torch, NCCL, disk, clock and access to the store"),
        ("leases", _leases, "which jobs use which GPUs"),
    ):
        action = actions.add_parser(name, help=what)
        complete_with(
            action.add_argument("hosts", nargs="*", metavar="HOST", help="all hosts if none is named"), _known_hosts
        )
        add_json(action)
        action.set_defaults(run=run)
        if name == "doctor":
            action.add_argument(
                "--download", type=float, metavar="RATE",
                help="also read 32 MB from the store; less than RATE MB/s is a problem",
            )  # fmt: skip
    drain = actions.add_parser("drain", help="keep new jobs away from a host, and say what still runs there")
    complete_with(drain.add_argument("host", metavar="HOST"), _known_hosts)
    how = drain.add_mutually_exclusive_group()
    how.add_argument("--stop", action="store_true", help="also end its jobs: their runs continue on other hosts")
    how.add_argument("--undo", action="store_true", help="let jobs in again")
    add_json(drain)
    drain.set_defaults(run=_drain)
    release = actions.add_parser("release", help="end the job that holds a lease, and release it")
    complete_with(release.add_argument("host", metavar="HOST"), _known_hosts)
    release.add_argument("lease", metavar="LEASE", help="its id, as `aquarat hosts leases` shows it")
    add_json(release)
    release.set_defaults(run=_release)
    prepare = actions.add_parser("prepare", help="install the project on a bare host")
    complete_with(prepare.add_argument("host", metavar="HOST"), _known_hosts)
    prepare.set_defaults(run=_prepare)
    renting.add_actions(actions)
    rent.add_actions(actions)
    rentals.add_actions(actions)


def _known_hosts() -> Iterable[str]:
    return (host.name for host in read_inventory(_home()).hosts)


def _list(arguments: argparse.Namespace) -> str:
    inventory = read_inventory(_home())
    rented = any(isinstance(host, RentedHost) for host in inventory.hosts)
    rows = [
        (host.name, host.transport, host.address or "", f"{host.gpus} {host.gpu_kind or ''}".strip(),
         " ".join(host.labels), f"{host.price_per_hour:.2f}", str(host.max_leases), *([_end(host)] if rented else []))
        for host in inventory.hosts
    ]  # fmt: skip
    shown = {"name", "transport", "address", "gpus", "gpu_kind", "labels", "price_per_hour", "max_leases", "expires"}
    facts = [host.model_dump(mode="json", include=shown) for host in inventory.hosts]
    end = ("rented until",) if rented else ()
    heads = ("host", "transport", "address", "gpus", "labels", "$/hour", "leases", *end)
    return answer(arguments, facts, "\n".join([table([heads, *rows]), *inventory.left_out]))


def _end(host: Host) -> str:
    """When the rental of the host ends, and in how much time."""
    if not isinstance(host, RentedHost):
        return ""
    left = host.expires - time.time()
    end = f"{datetime.fromtimestamp(host.expires, UTC):%Y-%m-%d %H:%M} UTC"
    return f"{end} (in {duration(left)})" if left > 0 else f"{end} (over)"


@dataclass(frozen=True, slots=True)
class Said:
    """What a host has said: lines for people, facts for programs, and whether all is well."""

    host: str
    text: str
    facts: dict[str, Any]
    well: bool = True


def _doctor(arguments: argparse.Namespace) -> str | CheckFailed:
    from aquarat_pipeline.hosts.doctor import examine

    def describe(host: Host) -> Said:
        found = examine(host, min_mb_s=arguments.download)
        facts = "  ".join(f"{name} {value}" for name, value in found["facts"].items() if value is not None)
        lines = [f"{host.name}: {facts}", *(f"  problem: {problem}" for problem in found["problems"])]
        return Said(host.name, "\n".join(lines), {**found}, not found["problems"])

    left_out = () if arguments.hosts else read_inventory(_home()).left_out
    broken = [Said("rentals", problem, {"problems": list(left_out)}, False) for problem in left_out]
    alone = [] if arguments.hosts else _second_reaper()
    return _together(arguments, [*_each(arguments.hosts, describe), *broken, *alone])


def _second_reaper() -> list[Said]:
    """A complaint while something is rented, or may be by itself, and only this machine could end it."""
    found = watching.known_here(_home(), store_uri(), time.time())
    if found.unprotected is None:
        return []
    return [Said("second reaper", found.unprotected, {"problems": [found.unprotected]}, False)]


def _leases(arguments: argparse.Namespace) -> str | CheckFailed:
    def ask(host: Host) -> Said:
        leases = HostAgent(host).leases()["leases"]
        said = [
            f"{host.name}: {lease['id']}  {lease['step']} of run {lease['owner']}"
            f"  GPUs {','.join(map(str, lease['gpus'])) or 'none'}  {lease['seconds_left']:.0f} s without renewal"
            for lease in leases
        ]
        return Said(host.name, "\n".join(said) or f"{host.name}: free", {"leases": leases})

    return _together(arguments, _each(arguments.hosts, ask))


def _release(arguments: argparse.Namespace) -> str:
    host = read_inventory(_home()).get(arguments.host)
    reply = _reached(host, lambda: HostAgent(host).release(arguments.lease))
    if reply["state"] == "unknown":
        raise InventoryError(f"{host.name} has no lease {arguments.lease}: see `aquarat hosts leases {host.name}`")
    if reply["state"] == "held":
        raise InventoryError(f"{host.name} still holds {arguments.lease}: its processes did not end; try again")
    return answer(
        arguments, {"host": host.name, "released": arguments.lease}, f"{host.name}: {arguments.lease} is released"
    )


def _drain(arguments: argparse.Namespace) -> str:
    host = read_inventory(_home()).get(arguments.host)
    reason = None if arguments.undo else "it was drained with `aquarat hosts drain`"
    reply: DrainReply = _reached(host, lambda: HostAgent(host).drain(reason, stop=arguments.stop))
    if reply["state"] == "open":
        text = f"{host.name} takes jobs again"
    elif reply["leases"]:
        held = ", ".join(f"{lease['step']} of run {lease['owner'][:8]}" for lease in reply["leases"])
        text = f"{host.name} takes no more jobs; {'being stopped' if arguments.stop else 'still there'}: {held}"
    elif reply["supervisors"]:
        text = f"{host.name} takes no more jobs; its last one is ending"
    else:
        text = f"{host.name} takes no more jobs, and none is there"
    return answer(arguments, {"host": host.name, **reply}, text)


def _prepare(arguments: argparse.Namespace) -> str | CheckFailed:
    from aquarat_pipeline.hosts.prepare import prepare

    host = read_inventory(_home()).get(arguments.host)
    done = _reached(host, lambda: prepare(host, REPO_ROOT, lambda line: print(printable(line), flush=True)))
    print(printable(done), flush=True)
    return _doctor(argparse.Namespace(hosts=[host.name], download=None, json=False))


def _each(names: list[str], ask: Callable[[Host], Said]) -> list[Said]:
    """Asks the named hosts, or all, in parallel; that one cannot be reached is an answer too."""
    inventory = read_inventory(_home())
    hosts = [inventory.get(name) for name in names] or list(inventory.hosts)

    def safely(host: Host) -> Said:
        try:
            return ask(host)
        except HostError as e:
            return Said(host.name, f"{host.name}: {e}", {"problems": [str(e)]}, False)

    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        return list(pool.map(safely, hosts))


def _together(arguments: argparse.Namespace, replies: Iterable[Said]) -> str | CheckFailed:
    replies = list(replies)
    text = "\n".join(reply.text for reply in replies)
    found = answer(arguments, {reply.host: reply.facts for reply in replies}, text)
    return found if all(reply.well for reply in replies) else CheckFailed(found)


def _reached(host: Host, do: Callable[[], Any]) -> Any:
    try:
        return do()
    except HostError as e:
        raise InventoryError(str(e)) from None


def _home() -> Path:
    if not os.environ.get("DAGSTER_HOME"):
        raise InventoryError("DAGSTER_HOME, the folder of hosts.yaml, is not set: run this inside `./run shell`")
    return Path(os.environ["DAGSTER_HOME"])
