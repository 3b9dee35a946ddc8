"""The keeper: brings every rental of a DAGSTER_HOME from its order to the proof that it is gone.

It reads the ledger anew in each turn and asks each account for a list of its instances; what it remembers itself only
says when to ask again. So it may be killed at any time, and another goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aquarat_core.errors import UsageError, UserError
from aquarat_pipeline.renting import budget, reaper
from aquarat_pipeline.renting.clouds.cloud import KINDS, Account, Cloud
from aquarat_pipeline.renting.clouds.model import CloudError, Listing, Scope, Unauthorized, Unavailable
from aquarat_pipeline.renting.config import AccountSettings, Pool, RentConfig, RentConfigError
from aquarat_pipeline.renting.credit import Credit
from aquarat_pipeline.renting.ledger import Conflict, Ledger, Loaded
from aquarat_pipeline.renting.managed.hosting import Hosts
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering.demand import Demand
from aquarat_pipeline.renting.rental import AccountRecord, Rental
from aquarat_pipeline.renting.sight import ours, sight
from aquarat_pipeline.renting.steps import Steps

log = logging.getLogger(__name__)

TURN_SECONDS = 10.0
SOON_SECONDS = 1.0
"""To the next turn, if something happened to a rental: the next act may be due."""
LIST_SECONDS = 20.0
CALM_LIST_SECONDS = 60.0
"""Between two lists of an account whose rentals are all ready, or final."""
ASK_WITHIN_SECONDS = 600.0
"""An order that could not be asked for within this time, or half of its life, is given up."""
WATCH_SECONDS = 24 * 3600.0
"""Rentals that were refused, absent or gone are looked for until so long after the end in their names."""

WRONG_CLOCK_SECONDS = 300.0


@dataclass
class Turn:
    """What one turn has to say to people, and whether anything is left to do."""

    notes: list[str] = field(default_factory=list[str])
    open: int = 0
    watched: int = 0
    waiting: int = 0
    """Steps that wait, and for which hosts may be rented."""
    pause: float = TURN_SECONDS
    """Until the next turn."""
    helpless: bool = False
    """No account that it watches can be asked, because their keys are not in its environment."""


@dataclass(frozen=True, slots=True)
class SshKey:
    """The key of the installation, with which rented hosts are reached."""

    name: str
    public: str


class Keeper:
    """One turn after the other; `now`, accounts, hosts and settings are given."""

    def __init__(
        self,
        ledger: Ledger,
        connect: Callable[[Account], Cloud],
        hosts: Hosts,
        config: Callable[[], RentConfig],
        ssh_key: Callable[[], SshKey],
        now: Callable[[], float],
        demand: Demand | None = None,
    ) -> None:
        """Without a `demand`, nothing is ordered for steps that wait."""
        self._ledger = ledger
        self._connect = connect
        self._hosts = hosts
        self._config = config
        self._ssh_key = ssh_key
        self._now = now
        self._demand = demand
        self._credit = Credit(ledger, now)
        self._clouds: dict[str, Cloud] = {}
        self._next_list: dict[str, float] = {}
        self._silent: set[str] = set()
        """Accounts whose last list failed."""

    def turn(self) -> Turn:
        """At most one act for each rental. Never raises for what a provider, a rental or a file does."""
        done = Turn()
        loaded = self._ledger.load()
        done.notes += loaded.problems
        # Rentals that cannot be read may cost money too. Their names tell when their instances are to end.
        done.watched += len(loaded.problems)
        accounts = {account.model_dump_json(): account for account in self._damaged(loaded, done)}
        groups: dict[str, list[Rental]] = {key: [] for key in accounts}
        for rental in loaded.rentals:
            if not rental.final or rental.order.last_end + WATCH_SECONDS > self._now():
                key = rental.order.account.model_dump_json()
                accounts[key] = rental.order.account
                groups.setdefault(key, []).append(rental)
        shut = 0
        for key, rentals in groups.items():
            done.open += sum(not rental.final for rental in rentals)
            done.watched += len(rentals)
            try:
                cloud = self._cloud(accounts[key].account)
            except UsageError as e:
                shut += 1
                done.notes.append(str(e))
                continue
            except UserError as e:
                done.notes.append(str(e))
                continue
            try:
                self._keep(key, cloud, rentals, done, bool(loaded.problems))
            except UserError as e:
                done.notes.append(str(e))
            except Exception as e:
                log.exception("keeping what %s rents", accounts[key].name)
                done.notes.append(f"{accounts[key].name}: {type(e).__name__}: {e}")
        done.helpless = bool(groups) and shut == len(groups)
        if self._demand is not None:
            self._order(self._demand, done)
        return done

    def _damaged(self, loaded: Loaded, done: Turn) -> list[AccountRecord]:
        """The accounts that rentals which cannot be read may belong to."""
        if len(loaded.damaged) == len(loaded.problems):
            return list(loaded.damaged)
        try:
            config = self._config()
        except UserError as e:
            done.notes.append(str(e))
            return list(loaded.damaged)
        return [*loaded.damaged, *(AccountRecord.of(config.account(name)) for name in config.accounts)]

    def _order(self, demand: Demand, done: Turn) -> None:
        """Lets hosts be ordered for steps that wait, after what happened in this turn."""
        try:
            wanted = demand(self._ledger.load(), self._cloud, done.notes)
        except (UserError, OSError) as e:
            done.notes.append(f"nothing is ordered for runs that wait: {e}")
        except Exception as e:
            log.exception("ordering for runs that wait")
            done.notes.append(f"nothing is ordered for runs that wait: {type(e).__name__}: {e}")
        else:
            done.waiting = wanted.steps
            done.pause = min(done.pause, max(wanted.due - self._now(), 0.0))

    def _cloud(self, account: Account) -> Cloud:
        """Raises `UsageError` if its key is missing."""
        key = AccountRecord.of(account).model_dump_json()
        if key not in self._clouds:
            self._clouds[key] = self._connect(account)
        return self._clouds[key]

    def _keep(self, key: str, cloud: Cloud, rentals: Sequence[Rental], done: Turn, damaged: bool) -> None:
        """Keeps the rentals of one account."""
        silent = key in self._silent
        listing = self._look(key, cloud, rentals, done)
        back = silent and key not in self._silent
        why = self._strangers(cloud, listing, done) if listing else None
        why = "the ledger is damaged" if damaged else why
        wrong_clock = clock_problem(cloud.account, listing.clock_ahead) if listing else None
        done.notes += [wrong_clock] if wrong_clock else []
        if listing and self._drained(key, cloud, listing, rentals, done):
            rentals = [self._ledger.read(rental.id) for rental in rentals]
        for rental in sorted(rentals, key=lambda rental: rental.state == "intended"):
            steps = Steps(self._ledger, cloud, self._hosts, self._now(), back)
            try:
                seen = sight(rental, listing) if listing else None
                after = steps.step(rental, seen)
                done.pause = min(done.pause, self._rest(rental, after))
                if after is rental and rental.state == "intended" and listing is not None:
                    if wrong_clock:
                        self._refuse(rental, f"{wrong_clock}, then order again", "clock")
                    else:
                        self._ask(steps, rental, listing, why, done)
                    # Asking may take a minute and a half. Others must not be judged by what was seen before.
                    self._next_list[key] = self._now()
                    return
            except Conflict:
                log.info("another keeper acted on %s", rental.name)
            except (UserError, OSError) as e:
                done.notes.append(f"{rental.name}: {e}")
            except Exception as e:
                log.exception("keeping %s", rental.name)
                done.notes.append(f"{rental.name}: {type(e).__name__}: {e}")

    def _rest(self, before: Rental, after: Rental) -> float:
        """Seconds for which nothing is due."""
        if after is not before:
            return SOON_SECONDS
        if after.state == "ready" and after.order.managed and not after.runs:
            return max(SOON_SECONDS, after.idle_end - self._now())
        return TURN_SECONDS

    def _look(self, key: str, cloud: Cloud, rentals: Sequence[Rental], done: Turn) -> Listing | None:
        """A new list of the account, if it is time for one."""
        now = self._now()
        calm = all(rental.final or rental.state == "ready" for rental in rentals)
        pause = CALM_LIST_SECONDS if calm else LIST_SECONDS
        due = self._next_list.get(key, now)
        urgent = any(rental.state in ("intended", "asking") for rental in rentals)
        # No wait is longer than a pause, even if the clock was set back.
        if not urgent and now < due <= now + pause:
            return None
        self._next_list[key] = now + pause
        try:
            listing = cloud.list()
            self._silent.discard(key)
            return listing
        except CloudError as e:
            self._silent.add(key)
            after = e.retry_after if isinstance(e, Unavailable) else None
            self._next_list[key] = now + min(TURN_SECONDS if after is None else after, CALM_LIST_SECONDS)
            done.notes.append(f"{cloud.account}: {e}")
            if isinstance(e, Unauthorized) and (alive := [one for one in rentals if one.instance_id and not one.final]):
                named = ", ".join(f"{one.name} (instance {one.instance_id})" for one in alive)
                done.notes.append(
                    f"nobody can end {named} without a key that {cloud.account} takes: put a new one into .env "
                    f"({KINDS[rentals[0].order.account.cloud].keys_page}), start Dagster again with it, and end this "
                    f"keeper (kill {os.getpid()}), whose place one with the new key takes; or end them in the dashboard"
                )
            return None

    def _drained(self, key: str, cloud: Cloud, listing: Listing, rentals: Sequence[Rental], done: Turn) -> bool:
        """Whether the account's balance is low; then its rentals have been asked to end."""
        try:
            low = self._credit.look(key, cloud, listing, rentals)
        except Conflict:
            return True
        except (CloudError, OSError) as e:
            done.notes.append(f"{cloud.account}: its balance could not be looked at: {e}")
            return False
        done.notes += [low] if low else []
        return low is not None

    def _strangers(self, cloud: Cloud, listing: Listing, done: Turn) -> str | None:
        """Ends instances of our name that the ledger does not know and whose end is past; why nothing new may be
        rented, if there are any."""
        try:
            installation = self._ledger.installation()
        except UserError as e:
            done.notes.append(str(e))
            return "nobody knows which instances are ours"
        known = {rental.name for rental in self._ledger.load().rentals}
        unknown = [found for found in ours(listing, (installation,)) if str(found.name) not in known]
        late = {found.id for found in reaper.overdue(listing, (installation,), self._now())}
        for found in unknown:
            done.notes.append(f"{found.name} ({found.id}) of {cloud.account} is ours, but not in the ledger: "
                              "it will be ended after its time; nothing new is rented there before")  # fmt: skip
            if found.id in late:
                try:
                    cloud.terminate(found.id)
                except CloudError as e:
                    done.notes.append(f"{found.name}: {e}")
        return "the account has instances of ours that the ledger lacks" if unknown else None

    def _ask(self, steps: Steps, rental: Rental, listing: Listing, why: str | None, done: Turn) -> None:
        """Sends the order if all caps allow it now; refuses it if they do not."""
        order = rental.order
        if self._now() >= min(order.ordered + ASK_WITHIN_SECONDS, (order.ordered + order.last_end) / 2):
            self._refuse(rental, "it could not be asked for in time: order again", "late", "offer")
            return
        if why or not listing.complete:
            done.notes.append(f"{rental.name} is not asked for: {why or 'the list of instances is not complete'}")
            return
        try:
            caps, pool = self._caps(rental.order.account, rental.order.pool)
        except RentConfigError as e:
            done.notes.append(f"{rental.name} is not asked for: {e}")
            return
        balance = steps.cloud.balance() if steps.cloud.capabilities.balance else None
        key = self._ssh_key()
        # Read again, because others may have been ordered or granted since.
        place = (rental.order.ordered, rental.id)
        others = [
            other
            for other in self._ledger.load().rentals
            if other.id != rental.id and (other.state != "intended" or (other.order.ordered, other.id) < place)
        ]
        run_budget = rental.order.run_budget_micros
        over = budget.why_not(
            rental.order, others, self._now(), caps, pool, balance, Money(run_budget) if run_budget else None
        )
        if over:
            self._refuse(rental, over, "cap")
            return
        name = steps.cloud.ensure_ssh_key(key.name, key.public)
        Steps(self._ledger, steps.cloud, self._hosts, self._now()).ask(rental, name, key.public)
        done.pause = min(done.pause, SOON_SECONDS)

    def _refuse(self, rental: Rental, why: str, code: str, scope: Scope = "account") -> None:
        self._ledger.append(rental, "refused", self._now(), why, code=code, scope=scope)

    def _caps(self, account: AccountRecord, pool: str | None) -> tuple[AccountSettings, Pool | None]:
        config = self._config()
        caps = config.accounts.get(account.name) or next(
            (
                settings
                for name, settings in config.accounts.items()
                if AccountRecord.of(config.account(name)).place == account.place
            ),
            AccountSettings(cloud=account.cloud),
        )
        return caps, config.pool(pool) if pool else None


def clock_problem(account: str, ahead: float | None) -> str | None:
    """What is wrong with this machine's clock, by which rentals end; `ahead` of the provider's, in seconds."""
    if ahead is None or abs(ahead) < WRONG_CLOCK_SECONDS:
        return None
    side = "ahead of" if ahead > 0 else "behind"
    return (
        f"the clock of this machine is {abs(ahead) / 60:.0f} min {side} that of {account}, and rentals end by it: set "
        "it (timedatectl set-ntp true)"
    )
