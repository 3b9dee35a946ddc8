"""`aquarat hosts rentals`, `extend`, `terminate`, `cost` and `reap`: what is rented, what it costs, and ending it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_core.errors import UsageError, UserError
from aquarat_core.plain_text import printable
from aquarat_core.settings import store_uri
from aquarat_pipeline.cli.rent import wait
from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.renting import costs, heartbeats, keeping, names, reaper, watching
from aquarat_pipeline.renting.accounts import accounts, config_of
from aquarat_pipeline.renting.alarms import alarms
from aquarat_pipeline.renting.clouds.cloud import connect, this_machine
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.heartbeats import Look, Pass
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.money import ZERO, Money
from aquarat_pipeline.renting.ordering.selecting import nearest
from aquarat_pipeline.renting.phases import phase
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.renting.requests import ask_end, end_instance, extend

ENDED_SOMETHING, COULD_NOT_LOOK = 3, 4
"""Exit codes of `reap`."""


def add_actions(actions: Commands) -> None:
    """Adds the actions to `hosts`."""
    rentals = actions.add_parser("rentals", help="what is rented, and what it costs so far")
    rentals.add_argument("--all", action="store_true", help="also what is gone, refused or was never made")
    rentals.add_argument(
        "--provider",
        action="store_true",
        help="ask the clouds what runs there, and which filesystems and disks there are, of others too",
    )
    rentals.add_argument("--json", action="store_true", help="print JSON; amounts are in millionths of a dollar")
    rentals.set_defaults(run=_rentals)
    longer = actions.add_parser("extend", help="let a rental end later, up to the end in its name")
    longer.add_argument("rental", metavar="RENTAL")
    longer.add_argument("--hours", type=float, required=True, metavar="H", help="so many hours later")
    longer.set_defaults(run=_extend)
    end = actions.add_parser("terminate", help="end rentals, and wait for the proof that they are gone")
    end.add_argument("rentals", nargs="*", metavar="RENTAL", help="its id, its whole name, or your label for it")
    end.add_argument("--all", action="store_true", help="all that are open")
    end.add_argument("--now", action="store_true", help="do not wait for the jobs on it")
    end.add_argument("--provider-id", metavar="ID", help="this nameless instance is the (unclear) rental")
    end.add_argument("--no-wait", action="store_true", help="do not wait for the proof")
    end.set_defaults(run=_terminate)
    cost = actions.add_parser("cost", help="what rentals have cost, by our own count")
    cost.add_argument(
        "--by",
        choices=("rental", "run", "pool", "account", "day"),
        default="rental",
        help="the parts that the total is split into; default: rental",
    )
    cost.add_argument("--since", type=_day, default=0.0, metavar="DATE", help="from this day on, as 2026-11-30 (UTC)")
    cost.add_argument("--json", action="store_true", help="print JSON; amounts are in millionths of a dollar")
    cost.set_defaults(run=_cost)
    reap = actions.add_parser("reap", help="end every rental that has outlived its name; needs an API key only")
    reap.add_argument(
        "--installation", action="append", default=[], metavar="ID", help="whose; default: of DAGSTER_HOME"
    )
    reap.add_argument("--account", metavar="NAME", help="only this account; all that have a key if none is named")
    reap.add_argument("--dry-run", action="store_true", help="only show what would be ended")
    reap.add_argument(
        "--store",
        metavar="URI",
        default=os.environ.get("AQUARAT_STORE"),
        help="the artifact store, where this pass is noted if it can be reached; default: AQUARAT_STORE, or nowhere",
    )
    reap.add_argument("--machine", metavar="NAME", help="this machine's name there; default: its host name")
    reap.set_defaults(run=_reap)


def _rentals(arguments: argparse.Namespace) -> str | CheckFailed:
    home, now = dagster_home(), time.time()
    ledger = Ledger(home)
    loaded = watching.known_here(home, store_uri(), now)
    shown = [rental for rental in loaded.rentals if arguments.all or not rental.final]
    problems = [*loaded.problems, *alarms(loaded.rentals, now)]
    if (loaded.problems or any(not rental.final for rental in loaded.rentals)) and not keeping.is_alive(home):
        keeping.start(home)
        problems.append("no keeper was at work: one was started")
    listed: list[tuple[str, ...]] = []
    if arguments.provider:
        listed, unasked = _provider(ledger)
        problems += unasked
    machine = {
        "rentals": [_machine(rental, now) for rental in shown], "problems": problems, "unprotected": loaded.unprotected,
        "listed": listed,
    }  # fmt: skip
    header = ("rental", "label", "state", "type", "region", "address", "$/hour", "age", "ends in", "cost so far")
    lines = [table([header, *(_row(rental, now) for rental in shown)]) if shown else "nothing is rented"]
    if listed:
        lines.append(table([("account", "id", "name", "state", "whose"), *listed]))
    notices = [f"nothing new can be rented: {loaded.broken}" if loaded.broken else None, loaded.unprotected]
    lines += [f"installation {ledger.installation()}", *problems, *filter(None, notices)]
    text = answer(arguments, machine, "\n".join(lines))
    return CheckFailed(text) if problems else text


def _row(rental: Rental, now: float) -> tuple[str, ...]:
    order = rental.order
    return (
        rental.id, order.label, phase(rental, now), order.offer.type, order.offer.region, rental.address or "",
        str(rental.hourly), _span(now - order.ordered), "" if rental.final else _span(rental.end - now),
        str(costs.accrued(rental, now)),
    )  # fmt: skip


def _machine(rental: Rental, now: float) -> dict[str, object]:
    return {
        "rental": rental.id, "name": rental.name, "label": rental.order.label, "state": rental.state,
        "phase": phase(rental, now), "managed": rental.order.managed, "runs": dict(rental.runs),
        "account": rental.order.account.name, "type": rental.order.offer.type, "region": rental.order.offer.region,
        "instance_id": rental.instance_id, "address": rental.address, "hourly_micros": rental.hourly.micros,
        "ordered": rental.order.ordered, "end": rental.end, "last_end": rental.order.last_end,
        "cost_micros": costs.accrued(rental, now).micros,
    }  # fmt: skip


def _provider(ledger: Ledger) -> tuple[list[tuple[str, ...]], list[str]]:
    """What the clouds list, a row for each instance, and for each filesystem or disk, which are billed too; and a
    sentence for each account that could not be asked."""
    installation = ledger.installation()
    known = {rental.name for rental in ledger.load().rentals}
    rows: list[tuple[str, ...]] = []
    unasked: list[str] = []

    def whose(name: str | None) -> str:
        parts = names.parse(name)
        if name in known:
            return "ours"
        return "ours, not in the ledger" if parts and parts.installation == installation else "foreign"

    for account in accounts(config_of(os.environ)[0], os.environ):
        try:
            cloud = connect(account, this_machine())
            listing, leftovers = cloud.list(), cloud.leftovers()
        except UserError as e:
            unasked.append(f"what {account.name} has is not known: {e}")
            continue
        for one in (*listing.instances, *listing.unreadable):
            state = getattr(one, "raw_state", "unreadable")
            rows.append((account.name, one.id or "", one.name or "", state, whose(one.name)))
        for thing in leftovers:
            state = f"{thing.kind}, {'in use' if thing.in_use else 'billed, but not in use'}"
            rows.append((account.name, thing.id, thing.name, state, whose(thing.name)))
    return rows, unasked


def _extend(arguments: argparse.Namespace) -> str:
    ledger = Ledger(dagster_home())
    (rental,) = _find(ledger.load().rentals, [arguments.rental])
    after = extend(ledger, rental, arguments.hours, time.time())
    return f"{after.id} ends at {datetime.fromtimestamp(after.end, UTC):%Y-%m-%d %H:%M} UTC"


def _terminate(arguments: argparse.Namespace) -> str | CheckFailed:
    home = dagster_home()
    ledger = Ledger(home)
    rentals = ledger.load().rentals
    if bool(arguments.rentals) == arguments.all:
        raise UsageError("name the rentals to end, or say --all")
    chosen = [one for one in rentals if not one.final] if arguments.all else _find(rentals, arguments.rentals)
    if arguments.provider_id:
        if len(chosen) != 1:
            raise UsageError("--provider-id belongs to one rental: name that one")
        _check_nameless(chosen[0], arguments.provider_id)
        end_instance(ledger, chosen[0], arguments.provider_id, time.time())
    else:
        for rental in chosen:
            ask_end(ledger, rental, "now" if arguments.now else "drain", time.time())
    keeping.start(home)
    if arguments.no_wait or not chosen:
        return f"asked to end: {' '.join(one.id for one in chosen) or 'nothing, because nothing is rented'}"
    return wait(ledger, chosen, home, lambda rental: rental.final)


def _check_nameless(rental: Rental, instance_id: str) -> None:
    """Raises `UserError` unless the provider lists an instance of this id that has no other name: with a name, it is
    another rental, or somebody else's."""
    account = rental.order.account.account
    listing = connect(account, this_machine()).list()
    found = next((one for one in (*listing.instances, *listing.unreadable) if one.id == instance_id), None)
    if found is None:
        raise UsageError(f"{account.name} lists no instance {instance_id!r}: `aquarat hosts rentals --provider`")
    if found.name and found.name != rental.name:
        raise UsageError(f"{instance_id} is named {found.name}, so it is not the nameless {rental.id}, and not touched")


def _find(rentals: Sequence[Rental], wanted: Iterable[str]) -> list[Rental]:
    """The rentals of those ids, names, labels. Raises `UsageError` for any that is not in the ledger."""
    found: list[Rental] = []
    for text in wanted:
        exact = [one for one in rentals if text in (one.id, one.name)]
        labelled = [one for one in rentals if one.order.label == text and not one.final]
        if not exact and len(labelled) > 1:
            raise UsageError(f"{len(labelled)} rentals are labelled {text}: name one by its id")
        if not exact and not labelled:
            known = [one.id for one in rentals if not one.final]
            near = nearest(text, known) if known else ": nothing is rented now"
            raise UsageError(
                f"{text!r} was not rented from here, so it is not touched{near} (`aquarat hosts rentals --provider` "
                "shows all that the providers list; what is not yours ends in their dashboards)"
            )
        found += exact or labelled
    return found


def _cost(arguments: argparse.Namespace) -> str:
    now = time.time()
    loaded = Ledger(dagster_home()).load()
    parts: dict[str, Money] = {}
    total = ZERO
    for rental in loaded.rentals:
        total += costs.between(rental, arguments.since, now)
        for key, amount in _parts(rental, arguments.by, arguments.since, now):
            parts[key] = parts.get(key, ZERO) + amount
    rows = [(key, str(amount)) for key, amount in sorted(parts.items()) if amount != ZERO]
    machine = {"total_micros": total.micros, arguments.by: {key: amount.micros for key, amount in parts.items()}}
    human = table([(arguments.by, "cost"), *rows, ("in all", str(total))])
    return answer(arguments, machine, "\n".join([human, *loaded.problems]))


def _parts(rental: Rental, by: str, since: float, now: float) -> list[tuple[str, Money]]:
    """The rental's cost since then, in parts whose sum is the whole."""
    match by:
        case "run":
            before, after = costs.split(rental, since), costs.split(rental, now)
            return [(run, amount - before.get(run, ZERO)) for run, amount in after.items()]
        case "day":
            return costs.by_day(rental, since, now)
        case "pool":
            key = rental.order.pool or "by hand"
        case "account":
            key = rental.order.account.name
        case _:
            key = rental.id
    return [(key, costs.between(rental, since, now))]


def _reap(arguments: argparse.Namespace) -> str:
    installations, config = _whose(arguments.installation)
    passes: list[reaper.Reaped] = []
    asked = accounts(config, os.environ, arguments.account)
    for account in asked:
        try:
            passes.append(reaper.reap(connect(account, this_machine()), installations, time.time(), arguments.dry_run))
        except UserError as e:
            passes.append(reaper.Reaped(account.name, problems=[str(e)]))
    lines: list[str] = []
    for one in passes:
        if one.ours or one.foreign or not one.problems:
            lines.append(f"{one.account}: {one.ours} of ours, {one.foreign} of others")
        lines += [f"{'would end' if arguments.dry_run else 'asked to end'} {name}" for name in one.asked]
        lines += [f"problem: {problem}" for problem in one.problems]
    if not arguments.dry_run:
        looks = [
            Look(account=account.name, cloud=account.cloud, looked=not one.problems)
            for account, one in zip(asked, passes, strict=True)
        ]
        lines.append(_note(arguments, installations, looks))
    text = "\n".join(lines)
    code = COULD_NOT_LOOK if any(one.problems for one in passes) else 0
    code = code or (ENDED_SOMETHING if any(one.asked for one in passes) else 0)
    if code:
        print(printable(text), flush=True)
        raise SystemExit(code)
    return text


def _note(arguments: argparse.Namespace, installations: Sequence[str], looks: Sequence[Look]) -> str:
    """Leaves the pass in the store, for the control host to see; a line that says so. Never fails."""
    if not arguments.store:
        return "not noted anywhere: with --store the control host sees that this reaper is at work"
    here = heartbeats.this_machine(arguments.machine)
    told = Pass(machine=here.name, boot=here.boot, at=time.time(), looks=tuple(looks))
    try:
        for installation in installations:
            heartbeats.write(arguments.store, installation, told)
    except (UserError, OSError) as e:
        return f"not noted in the store: {e}"
    return f"noted in {arguments.store} as {here.name}"


def _whose(given: Sequence[str]) -> tuple[list[str], RentConfig]:
    """Installations and accounts. Neither DAGSTER_HOME nor a readable rent.yaml is needed."""
    config, broken = config_of(os.environ)
    if broken:
        print(printable(broken), flush=True)
    if not given:
        if not os.environ.get("DAGSTER_HOME"):
            raise UsageError("whose rentals? --installation, as `aquarat hosts rentals` shows it at its end")
        given = [Ledger(dagster_home()).installation()]
    for one in given:
        try:
            names.RentalName(one, "0" * 8, 0)
        except ValueError as e:
            raise UsageError(str(e)) from None
    return list(given), config


def _span(seconds: float) -> str:
    sign = "-" if seconds < 0 else ""
    minutes = int(abs(seconds) // 60)
    return f"{sign}{minutes // 60}:{minutes % 60:02} h"


def _day(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day, such as 2026-11-30") from None
