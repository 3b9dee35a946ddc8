"""`aquarat hosts rent`: orders a host, and waits until it runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, log
from aquarat_core.errors import UsageError, UserError
from aquarat_core.plain_text import printable
from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.renting import budget, keeping
from aquarat_pipeline.renting.accounts import accounts
from aquarat_pipeline.renting.clouds.cloud import connect, this_machine
from aquarat_pipeline.renting.config import AccountSettings, Pool, RentConfig, dollars, read_config
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.managed import host_keys
from aquarat_pipeline.renting.managed.acceptance import why_not_here
from aquarat_pipeline.renting.money import HIGHEST_GPU_PRICE, Money
from aquarat_pipeline.renting.ordering.choosing import Candidate, Rests, choose, nothing_taken
from aquarat_pipeline.renting.ordering.resting import resting
from aquarat_pipeline.renting.ordering.selecting import Wish, nearest
from aquarat_pipeline.renting.rental import Rental, RentalOrder
from aquarat_pipeline.renting.requests import new_order

POLL_SECONDS = 1.0
LATE_SECONDS = 60.0
"""A keeper that acts takes an order sooner."""
IDLE_MINUTES = 10.0
"""After so long without a job, a host that belongs to no pool is ended."""


def add_actions(actions: Commands) -> None:
    """Adds `rent` to `hosts`."""
    rent = actions.add_parser("rent", help="rent a host, for a price and a time that you confirm")
    what = rent.add_mutually_exclusive_group(required=True)
    what.add_argument("--pool", metavar="POOL", help="the cheapest that this pool of rent.yaml takes")
    what.add_argument("--offer", metavar="ID", help="this offer, such as gpu_1x_a10@us-east-1")
    what.add_argument("--type", metavar="TYPE", help="the cheapest of this type; * stands for any text")
    rent.add_argument("--region", metavar="REGION", help="only in this region; * stands for any text")
    rent.add_argument("--account", metavar="NAME", help="only from this account; all that have a key if none is named")
    rent.add_argument("--hours", type=_hours, metavar="H", help="end it after so many hours (needed without --pool)")
    rent.add_argument("--most-hours", type=_hours, metavar="H", help="how far it may be extended; default: --hours")
    rent.add_argument("--max-price", type=_dollars, metavar="DOLLARS", help="per hour (needed without --pool)")
    rent.add_argument("--count", type=int, default=1, metavar="N", help="so many hosts; default: 1")
    rent.add_argument("--name", default="", metavar="LABEL", help="a name of yours for it")
    rent.add_argument("--no-prepare", action="store_true", help="no run uses it, and it stays when it is idle")
    rent.add_argument("--dry-run", action="store_true", help="only show what would be ordered")
    rent.add_argument("--no-wait", action="store_true", help="do not wait until it is ready")
    rent.add_argument("-y", "--yes", action="store_true", help="do not ask")
    rent.set_defaults(run=_rent)


def _rent(arguments: argparse.Namespace) -> str | CheckFailed:
    home = dagster_home()
    config = read_config(home)
    pool = config.pool(arguments.pool) if arguments.pool else None
    if pool is None and not (arguments.hours and arguments.max_price):
        raise UsageError("without --pool, say for how long and for how much: --hours 2 --max-price 1.50")
    if arguments.count < 1:
        raise UsageError("--count must be at least 1")
    if not arguments.no_prepare and (why := why_not_here()):
        raise UsageError(f"no host could be prepared: {why}; or rent without preparing it (--no-prepare)")
    ledger = Ledger(home)
    found = candidates(config, pool, arguments, _rests(ledger, config))
    orders = [_order(ledger, found[0], config, pool, arguments) for _ in range(arguments.count)]
    _check(ledger, config, found[0], orders, pool)
    shown = _describe(found[0], orders)
    if arguments.dry_run:
        return f"{shown}\nnothing was ordered (--dry-run)"
    print(printable(shown), flush=True)
    if not arguments.yes:
        _confirm()
    rentals = [ledger.order(order) for order in orders]
    keeping.start(home)
    names = " ".join(rental.id for rental in rentals)
    if arguments.no_wait:
        return f"ordered {names}: see `aquarat hosts rentals`"
    try:
        return wait(ledger, rentals, home, lambda rental: rental.state == "ready" or rental.final)
    except KeyboardInterrupt:
        log(f"The keeper goes on with {names}: see `aquarat hosts rentals`, or `aquarat hosts terminate {names}`")
        raise


def _rests(ledger: Ledger, config: RentConfig) -> Rests:
    """Offers of a pool rest if their hosts were unfit; whoever names an offer or a type gets it nevertheless."""
    known, now = ledger.load().rentals, time.time()
    return lambda one: resting(known, one.offer, now, config.limits.rest_hours)


def candidates(config: RentConfig, pool: Pool | None, arguments: argparse.Namespace, rests: Rests) -> list[Candidate]:
    """What may be ordered, the cheapest first. Raises `UserError` if there is nothing, and says why."""
    surroundings = this_machine()
    asked = accounts(config, os.environ, arguments.account)
    if pool is not None:
        taken = {source.account for source in pool.sources}
        asked = [account for account in asked if account.name in taken]
    offers: list[Candidate] = []
    problems: list[str] = []
    for account in asked:
        try:
            cloud = connect(account, surroundings)
            offers += [Candidate(account, cloud, offer) for offer in cloud.offers()]
        except UserError as e:
            problems.append(str(e))
    named = [one for one in offers if arguments.offer in (None, one.offer.id)]
    if arguments.offer and not named and not problems:
        known = [one.offer.id for one in offers]
        raise UsageError(f"there is no offer {arguments.offer!r}{nearest(arguments.offer, known)}")
    wish = Wish(arguments.type, arguments.region, None, None, arguments.max_price)
    try:
        choice = choose(named, wish, pool, rests if pool else lambda _: None)
    except UsageError as e:
        # It may be a name of an account that could not be asked.
        raise UsageError("; ".join([str(e), *problems])) from None
    if not choice.found:
        # What has another type or region than was asked for says nothing.
        near = [one for one in choice.excluded if ": another " not in one]
        reasons = [*problems, *(near or choice.excluded)[:8]] or [nothing_taken(pool, named) or "no offer fits"]
        raise UserError(f"nothing can be rented: {'; '.join(reasons)}")
    for problem in problems:
        log(printable(f"aquarat: {problem}"))
    return list(choice.found)


def _order(
    ledger: Ledger, chosen: Candidate, config: RentConfig, pool: Pool | None, arguments: argparse.Namespace
) -> RentalOrder:
    hours = arguments.hours or (pool.hours if pool else 0)
    most = arguments.most_hours or (max(pool.longest, hours) if pool else hours)
    highest = min(price for price in (arguments.max_price, pool and pool.max_price_per_hour) if price)
    can = chosen.cloud.capabilities
    if chosen.offer.gpus and highest.micros > HIGHEST_GPU_PRICE * chosen.offer.gpus:
        raise UsageError(
            f"--max-price {highest}: dollars per hour for the whole host are meant, and nobody asks for more than "
            f"{Money(HIGHEST_GPU_PRICE)} per GPU"
        )
    return new_order(
        ledger.installation(), chosen.account, chosen.offer, can, time.time(), hours, most, highest,
        label=arguments.name, pool=arguments.pool, image=chosen.image, managed=not arguments.no_prepare,
        phases=config.limits.phases(pool.idle_minutes if pool else IDLE_MINUTES),
    )  # fmt: skip


def _check(
    ledger: Ledger, config: RentConfig, chosen: Candidate, orders: Sequence[RentalOrder], pool: Pool | None
) -> None:
    """Raises `UserError` if a cap forbids one of the orders. The keeper checks again before it asks."""
    loaded = ledger.load()
    if loaded.problems:
        raise UserError(f"nothing new is rented while the ledger is damaged: {'; '.join(loaded.problems)}")
    caps = config.accounts.get(chosen.account.name) or AccountSettings(cloud=chosen.account.cloud)
    balance = chosen.cloud.balance() if chosen.cloud.capabilities.balance else None
    others = list(loaded.rentals)
    for order in orders:
        if why := budget.why_not(order, others, time.time(), caps, pool, balance):
            raise UserError(why)
        others.append(Rental.of(order, ()))


def _describe(chosen: Candidate, orders: Sequence[RentalOrder]) -> str:
    offer, order = chosen.offer, orders[0]
    hours = (order.last_end - order.ordered) / 3600
    most = Money(sum(budget.price_of(one, one.ordered).micros for one in orders))
    several = f"{len(orders)} of " if len(orders) > 1 else ""
    gpus = f"{offer.gpus} {offer.gpu_model}" if offer.gpus else "no GPU"
    return (
        f"{several}{offer.type} in {offer.region or 'any region'} from {chosen.account.name}: "
        f"{gpus}, {offer.price} an hour each, for {hours:g} h at most: {most} at most"
    )


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here: say --yes to rent without a question")
    if input("Rent it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was rented")


def wait(ledger: Ledger, rentals: Sequence[Rental], home: Path, done: Callable[[Rental], bool]) -> str | CheckFailed:
    """Says what happens to the rentals from now on until all are `done`; what became of them."""
    said = {rental.id: len(rental.events) for rental in rentals}
    began = time.monotonic()
    while True:
        now = [ledger.read(rental.id) for rental in rentals]
        for rental in now:
            for event in rental.events[said[rental.id] :]:
                if event.why or event.state != rental.state:
                    print(printable(f"{rental.id} {event.state}: {event.why}".rstrip(": ")), flush=True)
            said[rental.id] = len(rental.events)
        if all(map(done, now)):
            return _outcome(now, ledger.folder)
        if not keeping.is_alive(home) and time.monotonic() - began > LATE_SECONDS:
            raise UserError(f"the keeper has ended: see {keeping.log_of(home)}")
        time.sleep(POLL_SECONDS)


def _outcome(rentals: Sequence[Rental], folder: Callable[[str], Path]) -> str | CheckFailed:
    lines: list[str] = []
    bad = False
    for one in rentals:
        unfit = one.unfit if not one.end_asked else None
        bad = bad or one.state in ("refused", "absent") or unfit is not None
        more = f": ssh {_ssh(one, folder(one.id))}" if one.state == "ready" else f": {unfit.why}" if unfit else ""
        lines.append(f"{one.id} is {one.state}{more}")
    return CheckFailed("\n".join(lines)) if bad else "\n".join(lines)


def _ssh(rental: Rental, folder: Path) -> str:
    address, _, port = (rental.address or "").rpartition(":")
    rentals = "$DAGSTER_HOME/aquarat/rentals"
    known = ""
    if host_keys.is_pinned(folder):
        known = f"-o UserKnownHostsFile={rentals}/{rental.id}/{host_keys.KNOWN_HOSTS} -o HostKeyAlias={rental.id} "
    return f"-i {rentals}/id_ed25519 {known}-p {port} {address}"


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours above 0")
    return hours


def _dollars(text: str) -> Money:
    try:
        return dollars(text.removeprefix("$"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount in dollars above 0, such as 1.50") from None
