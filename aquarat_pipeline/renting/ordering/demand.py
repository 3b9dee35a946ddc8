"""Rents for steps that wait: what neither a free host nor a rental on its way will serve is ordered, one order a host.

The oldest step comes first. Its pool must be automatic, and it must have waited for a while, because a host that is
busy may be free sooner than another is rented. What cannot be rented now makes the step wait on, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aquarat_core.errors import UserError
from aquarat_pipeline.hosts.inventory import InventoryError, read_inventory
from aquarat_pipeline.hosts.queueing import WaitingStep, waiting_steps
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.renting import budget
from aquarat_pipeline.renting.clouds.cloud import Account, Cloud
from aquarat_pipeline.renting.config import Pool, RentConfig, by_hand
from aquarat_pipeline.renting.ledger import Ledger, Loaded
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering import notices, refusals
from aquarat_pipeline.renting.ordering.choosing import Candidate, Rests, choose, fitting, order_of_pool
from aquarat_pipeline.renting.ordering.market import Market, Seen
from aquarat_pipeline.renting.ordering.notices import Notice
from aquarat_pipeline.renting.ordering.resting import resting
from aquarat_pipeline.renting.ordering.selecting import Wish
from aquarat_pipeline.renting.ordering.supply import Supply, on_its_way, serving, supplies
from aquarat_pipeline.renting.rental import Rental, RentalOrder
from aquarat_pipeline.renting.requests import ask_end

SAY_AGAIN_SECONDS = 60.0
_SHOWN = 4


@dataclass
class Wanted:
    """What one turn found: how many steps wait that hosts may be rented for, and when something is to be done."""

    steps: int = 0
    due: float = float("inf")
    """Unix seconds: at once, if something was ordered."""


@dataclass
class _Turn:
    """One look at all that wait. `free` shrinks as steps are served, and `rentals` grows by what is ordered."""

    config: RentConfig
    now: float
    rentals: list[Rental]
    free: list[Supply]
    cloud_of: Callable[[Account], Cloud]
    stopped: str | None
    """Why nothing new is rented at all."""
    wanted: Wanted = field(default_factory=Wanted)


class Demand:
    """Looks at the steps that wait, once a turn of the keeper."""

    def __init__(
        self,
        home: Path,
        ledger: Ledger,
        config: Callable[[], RentConfig],
        now: Callable[[], float],
        why_unready: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`why_unready` says why no host could be prepared for jobs, or None: then nothing is ordered."""
        self._home = home
        self._ledger = ledger
        self._config = config
        self._now = now
        self._why_unready = why_unready
        self._market = Market()
        self._unmet: set[tuple[str, str]] = set()
        """Who waited in vain in the turn before."""
        self._said: dict[tuple[str, str], Notice] | None = None
        self._said_at = 0.0

    def __call__(self, loaded: Loaded, cloud_of: Callable[[Account], Cloud], notes: Sequence[str]) -> Wanted:
        """Orders what is missing, and says of each step what is done for it. `notes`: what the keeper says.

        Raises nothing but `OSError`.
        """
        waiting = waiting_steps(self._home)
        said: dict[tuple[str, str], Notice] = {}
        wanted = Wanted()
        if waiting:
            try:
                turn = self._begun(loaded, cloud_of)
            except UserError as e:
                said = {_key(step): Notice(f"nothing is rented: {e}") for step in waiting if step.need.pool}
            else:
                said = self._serve(waiting, turn, notes)
                wanted = turn.wanted
        else:
            self._unmet.clear()
            self._take_back(loaded.rentals)
        self._say(said)
        return wanted

    def _begun(self, loaded: Loaded, cloud_of: Callable[[Account], Cloud]) -> _Turn:
        now = self._now()
        try:
            hosts = read_inventory(self._home).hosts
        except InventoryError:
            # The workers wait for a usable inventory, and say so.
            hosts = ()
        stopped = None
        if loaded.problems:
            stopped = f"nothing new is rented while the ledger is damaged: {loaded.problems[0]}"
        elif why := self._why_unready():
            stopped = f"nothing is rented, because no host could be prepared: {why}"
        rentals = list(loaded.rentals)
        return _Turn(self._config(), now, rentals, supplies(rentals, hosts, now), cloud_of, stopped)

    def _serve(
        self, waiting: Sequence[WaitingStep], turn: _Turn, notes: Sequence[str]
    ) -> dict[tuple[str, str], Notice]:
        said: dict[tuple[str, str], Notice] = {}
        unmet: set[tuple[str, str]] = set()
        for step in waiting:
            served = serving(step.need, turn.free)
            turn.free = [one for one in turn.free if one not in served]
            pool = turn.config.pools.get(step.need.pool or "")
            turn.wanted.steps += pool is not None and pool.automatic
            notice = next(filter(None, (on_its_way(one.rental, turn.now, notes) for one in reversed(served))), None)
            if len(served) < step.need.nodes and pool is not None and step.need.host is None:
                notice = self._missing(step, pool, served, turn, unmet)
            if notice is not None:
                said[_key(step)] = notice
        self._unmet = unmet
        self._take_back(one.rental for one in turn.free)
        return said

    def _missing(
        self, step: WaitingStep, pool: Pool, served: Sequence[Supply], turn: _Turn, unmet: set[tuple[str, str]]
    ) -> Notice:
        """Orders what the step lacks, if it may; what is said of it."""
        name = step.need.pool or ""
        if not pool.automatic:
            return Notice(by_hand(name))
        due = step.waiting_since + turn.config.limits.wait_minutes * 60
        if turn.now < due:
            turn.wanted.due = min(turn.wanted.due, due)
            return Notice(f"one of the pool {name} is rented at {_clock(due)}, unless a host is free before")
        unmet.add(_key(step))
        if _key(step) not in self._unmet:
            self._market.hurry()
        if turn.stopped:
            return Notice(turn.stopped)
        looked = self._market.look(_accounts(turn.config, pool), turn.cloud_of, turn.now)
        plans, reasons = self._plans(step.need, pool, served, turn, looked)
        if not plans:
            reasons += [one.problem for one in looked if one.problem]
            following = self._market.nothing(looked, turn.now)
            why = "; ".join(reasons[:_SHOWN]) or f"no offer of it fits {step.need}"
            return Notice(f"nothing of the pool {name} can be rented: {why}. The next look is at {_clock(following)}")
        return self._order(step, pool, plans, turn, looked)

    def _plans(
        self, need: Requirement, pool: Pool, served: Sequence[Supply], turn: _Turn, looked: Iterable[Seen]
    ) -> tuple[list[list[Candidate]], list[str]]:
        """What could be ordered for the job, the cheapest first; and why other offers are not considered."""
        choice = choose((one for seen in looked for one in seen.candidates), Wish(), pool, _rests(turn))
        able, reasons = fitting(choice.found, need)
        reasons += choice.excluded
        if need.nodes == 1:
            return [[one] for one in able], reasons
        cheapest: dict[tuple[str, str], Candidate] = {}
        for one in able:
            if not one.cloud.capabilities.private_network:
                reasons.append(f"{one.offer.id}: hosts of {one.account.name} do not reach each other")
            else:
                cheapest.setdefault((one.account.name, one.offer.region), one)
        there = served[0].site if served else None
        plans = [[one] * (need.nodes - (len(served) if site == there else 0)) for site, one in cheapest.items()]
        return sorted(plans, key=lambda plan: plan[0].offer.price * len(plan)), reasons

    def _order(
        self, step: WaitingStep, pool: Pool, plans: Iterable[Sequence[Candidate]], turn: _Turn, looked: Iterable[Seen]
    ) -> Notice:
        """Orders the first of the plans that all caps allow, as a whole or not at all."""
        balances = {one.candidates[0].account.name: one.balance for one in looked if one.candidates}
        why = ""
        for plan in plans:
            orders: list[RentalOrder] = []
            others = list(turn.rentals)
            caps, balance = turn.config.accounts[plan[0].account.name], balances.get(plan[0].account.name)
            run_budget = Money(step.budget_micros) if step.budget_micros else None
            over = None
            for chosen in plan:
                order = order_of_pool(
                    self._ledger.installation(), chosen, step.need.pool or "", turn.config, turn.now,
                    run=step.run_id, run_budget_micros=step.budget_micros,
                )  # fmt: skip
                if over := budget.why_not(order, others, turn.now, caps, pool, balance, run_budget):
                    break
                orders.append(order)
                others.append(Rental.of(order, ()))
            why = why or over or ""
            if over is None:
                made = [self._ledger.order(order) for order in orders]
                turn.rentals += made
                turn.wanted.due = turn.now
                return on_its_way(made[0], turn.now, ()) or Notice("ordered")
        return Notice(f"nothing is rented now: {why}")

    def _take_back(self, rentals: Iterable[Rental]) -> None:
        """Cancels orders for a run that nobody waits for any more, as long as they were not sent."""
        for rental in rentals:
            if rental.state == "intended" and rental.order.run is not None and not rental.end_asked:
                ask_end(self._ledger, rental, "drain", self._now())

    def _say(self, said: dict[tuple[str, str], Notice]) -> None:
        now = self._now()
        if said == (self._said or {}) and (not said or 0 <= now - self._said_at < SAY_AGAIN_SECONDS):
            return
        notices.write(self._home, said)
        self._said, self._said_at = said, now


def _key(step: WaitingStep) -> tuple[str, str]:
    return step.run_id, step.step


def _accounts(config: RentConfig, pool: Pool) -> list[Account]:
    return [config.account(name) for name in dict.fromkeys(source.account for source in pool.sources)]


def _rests(turn: _Turn) -> Rests:
    """Offers rest after a refusal for minutes, and after an unfit host for hours."""
    hours = turn.config.limits.rest_hours

    def why(one: Candidate) -> str | None:
        unfit = resting(turn.rentals, one.offer, turn.now, hours)
        return unfit or refusals.refused(turn.rentals, one.account.name, one.offer, turn.now)

    return why


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"
