"""`aquarat hosts offers`: what can be rented now, and for how much."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer, log
from aquarat_core.cli.table import table
from aquarat_core.errors import UsageError, UserError
from aquarat_core.plain_text import printable
from aquarat_pipeline.renting.cloud import KINDS, Account, accounts_in_environment, connect, this_machine
from aquarat_pipeline.renting.model import Offer
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.selecting import Judged, Wish, judge, nearest


def add_actions(actions: Commands) -> None:
    """Adds `offers` to `hosts`."""
    offers = actions.add_parser("offers", help="hosts that can be rented now, the cheapest first; live prices")
    offers.add_argument("--account", metavar="NAME", help="only this account; all that have a key if none is named")
    offers.add_argument("--gpus", type=_count, metavar="N", help="with exactly N GPUs; 0 for hosts without")
    offers.add_argument("--type", metavar="TYPE", help="of this type; * stands for any text, as in 'gpu_8x_*'")
    offers.add_argument("--model", metavar="GPU", help="with this GPU, for example h100")
    offers.add_argument("--region", metavar="REGION", help="in this region; * stands for any text, as in 'us-*'")
    offers.add_argument("--max-price", type=_dollars, metavar="DOLLARS", help="for at most this per hour and host")
    offers.add_argument("--all", action="store_true", help="also those that do not fit or are sold out, and why")
    add_json(offers, "print one line of JSON, in which price_micros is in millionths of a dollar")
    offers.set_defaults(run=_offers)


def _offers(arguments: argparse.Namespace) -> str | CheckFailed:
    wish = Wish(arguments.type, arguments.region, arguments.model, arguments.gpus, arguments.max_price)
    found, problems = _ask(_accounts(arguments.account))
    for problem in problems:
        log(printable(f"aquarat: {problem}"))
    judged = judge(found, wish)
    shown = judged if arguments.all else [one for one in judged if one.excluded is None]
    text = answer(arguments, [_machine(one) for one in shown], _human(shown, judged, wish))
    return CheckFailed(text) if problems else text


def _accounts(wanted: str | None) -> list[Account]:
    """Raises `UsageError` if there is none, or none of this name."""
    accounts = accounts_in_environment(os.environ)
    if not accounts:
        ways = " or ".join(f"{kind.key_variable} ({kind.keys_page})" for kind in KINDS.values() if kind.key_variable)
        raise UsageError(f"no cloud can be asked, because there is no key: set {ways} in .env")
    names = [account.name for account in accounts]
    if wanted is not None and wanted not in names:
        raise UsageError(f"there is no account {wanted!r}{nearest(wanted, names)}")
    return [account for account in accounts if wanted in (None, account.name)]


def _ask(accounts: Sequence[Account]) -> tuple[list[Offer], list[str]]:
    """The offers of all accounts, and what those say that cannot be asked. Raises if none can."""
    surroundings = this_machine()

    def ask(account: Account) -> tuple[Offer, ...] | UserError:
        try:
            return connect(account, surroundings).offers()
        except UserError as e:
            return e

    with ThreadPoolExecutor(max_workers=len(accounts)) as pool:
        answers = list(pool.map(ask, accounts))
    problems = [one for one in answers if isinstance(one, UserError)]
    if len(problems) == len(answers):
        raise UserError("; ".join(str(one) for one in problems))
    offers = [offer for one in answers if not isinstance(one, UserError) for offer in one]
    return offers, [str(one) for one in problems]


def _human(shown: Sequence[Judged], judged: Sequence[Judged], wish: Wish) -> str:
    hidden = len(judged) - len(shown)
    more = f"{hidden} more do not fit or are sold out: --all shows them, and why" if hidden else ""
    if not shown:
        return f"nothing fits{_cheapest(judged, wish)}" + (f"\n{more}" if more else "")
    why = any(one.excluded for one in shown)
    header = ("$/hour", "$/GPU", "cloud", "type", "region", "GPUs", "GPU", "vCPUs", "GB", "arch", "left")
    rows = [(*header, "excluded because") if why else header]
    rows += [(*_cells(one.offer), one.excluded or "") if why else _cells(one.offer) for one in shown]
    return table(rows) + (f"\n{more}" if more else "")


def _cheapest(judged: Sequence[Judged], wish: Wish) -> str:
    """What a higher limit of the price would give."""
    if wish.max_price is None:
        return ""
    without = judge([one.offer for one in judged], dataclasses.replace(wish, max_price=None))
    offer = next((one.offer for one in without if one.excluded is None), None)
    if offer is None:
        return ", whatever it costs"
    return f" for {wish.max_price} an hour or less: the cheapest is {offer.type} in {offer.region} for {offer.price}"


def _cells(offer: Offer) -> tuple[str, ...]:
    per_gpu = str(Money(-(-offer.price.micros // offer.gpus))) if offer.gpus else ""
    memory = f" {offer.gpu_memory_gb} GB" if offer.gpu_memory_gb else ""
    return (
        str(offer.price), per_gpu, offer.cloud, offer.type, offer.region, str(offer.gpus),
        f"{offer.gpu_model}{memory}" if offer.gpus else "", str(offer.vcpus or ""), str(offer.memory_gb or ""),
        offer.arch, {"yes": "yes", "no": "no", "unknown": "?"}[offer.available],
    )  # fmt: skip


def _machine(judged: Judged) -> dict[str, object]:
    fields = dataclasses.asdict(judged.offer)
    del fields["price"]
    return {**fields, "price_micros": judged.offer.price.micros, "excluded": judged.excluded}


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
