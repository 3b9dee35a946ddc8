"""`aquarat hosts offers`: what can be rented now, and for how much."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer, log
from aquarat_core.cli.table import table
from aquarat_core.errors import UsageError, UserError
from aquarat_core.plain_text import printable
from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.renting.accounts import accounts, config_of
from aquarat_pipeline.renting.clouds.cloud import Account, connect, this_machine
from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.config import FILE, Pool, RentConfig
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering.choosing import why_not_of
from aquarat_pipeline.renting.ordering.resting import resting
from aquarat_pipeline.renting.ordering.selecting import Wish, judge, nearest


def add_actions(actions: Commands) -> None:
    """Adds `offers` to `hosts`."""
    offers = actions.add_parser("offers", help="hosts that can be rented now, the cheapest first; live prices")
    offers.add_argument("--pool", metavar="POOL", help="what this pool of rent.yaml takes")
    offers.add_argument("--account", metavar="NAME", help="only this account; all that have a key if none is named")
    offers.add_argument("--gpus", type=_count, metavar="N", help="with exactly N GPUs; 0 for hosts without")
    offers.add_argument("--type", metavar="TYPE", help="of this type; * stands for any text, as in 'gpu_8x_*'")
    offers.add_argument("--model", metavar="GPU", help="with this GPU, for example h100")
    offers.add_argument("--region", metavar="REGION", help="in this region; * stands for any text, as in 'us-*'")
    offers.add_argument("--max-price", type=_dollars, metavar="DOLLARS", help="for at most this per hour and host")
    offers.add_argument("--all", action="store_true", help="also those that do not fit or are sold out, and why")
    add_json(offers, "print one line of JSON, in which price_micros is in millionths of a dollar")
    offers.set_defaults(run=_offers)


@dataclass(frozen=True, slots=True)
class Shown:
    """An offer, whose it is, and why it is not what is wanted."""

    account: str
    offer: Offer
    excluded: str | None


def _offers(arguments: argparse.Namespace) -> str | CheckFailed:
    config, broken = config_of(os.environ)
    if arguments.pool and broken:
        raise UsageError(broken)
    if broken:
        # Before any account is asked: if none can be, this may be why.
        log(printable(f"aquarat: {broken}"))
    pool = config.pool(arguments.pool) if arguments.pool else None
    found, problems = _ask(_asked(config, pool, arguments))
    wish = Wish(arguments.type, arguments.region, arguments.model, arguments.gpus, arguments.max_price)
    judged = _judged(found, wish, config, pool)
    for problem in [*problems, *(_unknown_types(found, pool) if pool else ())]:
        log(printable(f"aquarat: {problem}"))
    shown = judged if arguments.all else [one for one in judged if one.excluded is None]
    text = answer(arguments, [_machine(one) for one in shown], _human(shown, judged, wish))
    return CheckFailed(text) if problems or broken else text


def _asked(config: RentConfig, pool: Pool | None, arguments: argparse.Namespace) -> list[Account]:
    """The accounts to ask. Raises `UsageError` if there is none."""
    asked = accounts(config, os.environ, arguments.account)
    if pool is None:
        return asked
    taken = [source.account for source in pool.sources]
    chosen = [account for account in asked if account.name in taken]
    if not chosen:
        raise UsageError(f"the pool {arguments.pool} takes nothing from {arguments.account}{nearest('', taken)}")
    return chosen


def _judged(found: Sequence[tuple[str, Offer]], wish: Wish, config: RentConfig, pool: Pool | None) -> list[Shown]:
    """All offers, the cheapest first, each with the first reason against it."""
    # Whoever has a pool has a DAGSTER_HOME.
    rentals, now = (Ledger(dagster_home()).load().rentals, time.time()) if pool else ((), 0.0)
    whose = {id(offer): account for account, offer in found}
    judged: list[Shown] = []
    for one in judge([offer for _, offer in found], wish):
        account = whose[id(one.offer)]
        why = why_not_of(pool, account, one.offer) if pool else None
        why = why or one.excluded or (resting(rentals, one.offer, now, config.limits.rest_hours) if pool else None)
        judged.append(Shown(account, one.offer, why))
    return judged


def _unknown_types(found: Sequence[tuple[str, Offer]], pool: Pool) -> list[str]:
    """A sentence for each type of the pool that its account does not offer, not even sold out."""
    said: list[str] = []
    for source in pool.sources:
        known = [offer.type for account, offer in found if account == source.account]
        for pattern in source.types if known else ():
            if not any(fnmatchcase(name, pattern) for name in known):
                said.append(f"{FILE}: {source.account} has no type {pattern!r}{nearest(pattern, known)}")
    return said


def _ask(accounts: Sequence[Account]) -> tuple[list[tuple[str, Offer]], list[str]]:
    """The offers of all accounts, and what those say that cannot be asked. Raises if none can."""
    surroundings = this_machine()

    def ask(account: Account) -> tuple[Offer, ...] | UserError:
        try:
            return connect(account, surroundings).offers()
        except UserError as e:
            return e

    with ThreadPoolExecutor(max_workers=len(accounts)) as pool:
        answers = list(pool.map(ask, accounts))
    problems = [str(one) for one in answers if isinstance(one, UserError)]
    if len(problems) == len(answers):
        raise UserError("; ".join(problems))
    offers = [
        (account.name, offer)
        for account, one in zip(accounts, answers, strict=True)
        if not isinstance(one, UserError)
        for offer in one
    ]
    return offers, problems


def _human(shown: Sequence[Shown], judged: Sequence[Shown], wish: Wish) -> str:
    hidden = len(judged) - len(shown)
    more = f"{hidden} more do not fit or are sold out: --all shows them, and why" if hidden else ""
    if not shown:
        return f"nothing fits{_cheapest(judged, wish)}" + (f"\n{more}" if more else "")
    why = any(one.excluded for one in shown)
    header = ("$/hour", "$/GPU", "account", "type", "region", "GPUs", "GPU", "vCPUs", "GB", "arch", "left")
    rows = [(*header, "excluded because") if why else header]
    rows += [(*_cells(one), one.excluded or "") if why else _cells(one) for one in shown]
    return table(rows) + (f"\n{more}" if more else "")


def _cheapest(judged: Sequence[Shown], wish: Wish) -> str:
    """What a higher limit of the price would give."""
    if wish.max_price is None:
        return ""
    without = judge([one.offer for one in judged], dataclasses.replace(wish, max_price=None))
    offer = next((one.offer for one in without if one.excluded is None), None)
    if offer is None:
        return ", whatever it costs"
    return f" for {wish.max_price} an hour or less: the cheapest is {offer.type} in {offer.region} for {offer.price}"


def _cells(shown: Shown) -> tuple[str, ...]:
    offer = shown.offer
    per_gpu = str(Money(-(-offer.price.micros // offer.gpus))) if offer.gpus else ""
    memory = f" {offer.gpu_memory_gb} GB" if offer.gpu_memory_gb else ""
    return (
        str(offer.price), per_gpu, shown.account, offer.type, offer.region, str(offer.gpus),
        f"{offer.gpu_model}{memory}" if offer.gpus else "", str(offer.vcpus or ""), str(offer.memory_gb or ""),
        offer.arch, {"yes": "yes", "no": "no", "unknown": "?"}[offer.available],
    )  # fmt: skip


def _machine(shown: Shown) -> dict[str, object]:
    fields = dataclasses.asdict(shown.offer)
    del fields["price"]
    return {
        **fields, "account": shown.account, "price_micros": shown.offer.price.micros, "excluded": shown.excluded
    }  # fmt: skip


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GPUs")
    return int(text)


def _dollars(text: str) -> Money:
    try:
        amount = Money.dollars(text.removeprefix("$"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount in dollars, such as 2.50") from None
    if amount.micros <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return amount
