"""What happens next to one rental: at most one act a call, which is written before it is asked for, and again after.

Every act can be repeated, because a keeper that was killed between two of them leaves nothing but the ledger and what
the provider lists.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aquarat_core.durations import duration
from aquarat_pipeline.renting.clouds.cloud import Cloud
from aquarat_pipeline.renting.clouds.model import (
    CloudError,
    Granted,
    Instance,
    Order,
    OutcomeUnknown,
    Refused,
    Unauthorized,
)
from aquarat_pipeline.renting.ledger import Conflict, Ledger
from aquarat_pipeline.renting.managed import host_keys
from aquarat_pipeline.renting.managed.hosting import Goal, Hosts, Progress
from aquarat_pipeline.renting.money import doubtful
from aquarat_pipeline.renting.rental import ALIVE, UNFIT, IllegalTransition, Rental, State
from aquarat_pipeline.renting.sight import Sight

log = logging.getLogger(__name__)

PROOF_SECONDS = 60
"""Between two lists that prove by their silence that an instance has ended."""
FIRST_RETRY_SECONDS = 30
LAST_RETRY_SECONDS = 300
STOP_SECONDS = 60
"""Jobs that are still at work are asked to end so long before their host ends."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Acts upon the rentals of one account."""

    ledger: Ledger
    cloud: Cloud
    hosts: Hosts
    now: float
    back: bool = False
    """The provider answers again after a time in which it did not: requests that failed are repeated at once."""

    def ask(self, rental: Rental, ssh_key_name: str, ssh_public_key: str) -> Rental:
        """Sends the order, once. The rental must be `intended`."""
        order = rental.order
        tags = {"aq-installation": order.parts.installation, "aq-rental": order.rental, "aq-end": str(order.last_end)}
        user_data = None
        if self.cloud.capabilities.host_key == "user_data":
            user_data = host_keys.ordered(self.ledger.folder(rental.id), rental.id)
        wanted = Order(order.name, order.last_end, ssh_key_name, ssh_public_key, user_data, order.image, tags)
        rental = self._write(rental, "asking", f"asking for {order.offer.id}", ssh_key=ssh_key_name)
        try:
            answer = self.cloud.rent(order.offer.offer, wanted)
        except Refused as e:
            return self._write_answer(rental, "refused", str(e), code=e.code, scope=e.scope)
        except OutcomeUnknown as e:
            if e.instance_id is None:
                return self._write_answer(rental, "unclear", str(e))
            return self._write_answer(rental, "granted", str(e), instance_id=e.instance_id)
        except Exception as e:
            return self._write_answer(rental, "unclear", f"{type(e).__name__}: {e}")
        price = None if isinstance(answer, Granted) else _price(rental, answer)
        return self._write_answer(
            rental, "granted", "the provider grants it", instance_id=answer.id, price_micros=price
        )

    def step(self, rental: Rental, seen: Sight | None) -> Rental:
        """The rental after its next act. `seen` is None if there is no new list."""
        if rental.state != "intended":
            host_keys.discard(self.ledger.folder(rental.id))
        if seen is not None and (after := self._listed(rental, seen)) is not None:
            return after
        if rental.state in ALIVE:
            return self._alive(rental, seen)
        match rental.state:
            case "intended" if rental.end_asked:
                return self._write(rental, "refused", "it was cancelled before it was asked for", scope="offer")
            case "asking":
                return self._write(rental, "unclear", "its keeper ended before the answer was written")
            case "unclear":
                return self._unclear(rental, seen)
            case "ending":
                return self._ending(rental, seen)
            case _:
                return rental

    def _listed(self, rental: Rental, seen: Sight) -> Rental | None:
        """The act that the mere presence of an instance asks for, if any."""
        instance = seen.instance
        if rental.final and instance is not None and seen.alive:
            why = f"it is listed as {instance.raw_state} although it was {rental.state}"
            return self._write(rental, "ending", why, instance_id=instance.id, seen=True)
        if (after := self._end_doubles(rental, seen.doubles) or self._close_doubles(rental, seen)) is not None:
            return after
        if instance is None or rental.final:
            return None
        if rental.state in ("intended", "asking", "unclear"):
            return self._write(rental, "granted", "it is listed", instance_id=instance.id, **_facts(rental, seen))
        return None

    def _end_doubles(self, rental: Rental, doubles: Sequence[str]) -> Rental | None:
        """Ends another instance with the rental's name, if it is time to ask. The rental's own state stays."""
        for double in doubles:
            asked = [event.at for event in rental.events if event.double_id == double]
            if asked and 0 <= self.now - asked[-1] < _pause(len(asked)):
                continue
            if not rental.final:
                why = f"there is another instance of its name, {double}: asking the provider to end that one"
                rental = self._write(rental, rental.state, why, double_id=double)
            self.cloud.terminate(double)
            return rental
        return None

    def _close_doubles(self, rental: Rental, seen: Sight) -> Rental | None:
        """Writes down that another instance of its name has ended, for the bill."""
        for double, ended in rental.doubles.items():
            if ended is None and seen.complete and double not in seen.listed and not rental.final:
                why = f"the other instance of its name, {double}, is not listed any more"
                return self._write(rental, rental.state, why, double_id=double, ended=seen.at)
        return None

    def _unclear(self, rental: Rental, seen: Sight | None) -> Rental:
        if seen is not None and seen.suspects:
            raise CloudError(
                f"{', '.join(seen.suspects)} may be it, and has no name: look at it in the provider's dashboard, and "
                f"end it with: aquarat hosts terminate {rental.id} --provider-id {seen.suspects[0]}"
            )
        if seen is None or not seen.missing or seen.at < rental.since + rental.order.settle_seconds:
            return rental
        return self._write(rental, "absent", "the provider does not list it: it was not made")

    def _alive(self, rental: Rental, seen: Sight | None) -> Rental:
        if why := self._over(rental, seen):
            return self._end(rental, why, UNFIT if why.startswith(UNFIT) else None)
        if seen is not None:
            if seen.missing and not self._lives(rental):
                return self._missed(rental, seen)
            if seen.instance is not None and (facts := _facts(rental, seen)):
                state: State = "booting" if rental.state == "granted" else rental.state
                return self._write(rental, state, "", **facts)
            if rental.missed is not None:
                return self._write(rental, rental.state, "it is listed again", seen=True)
        match rental.state:
            case "granted" | "booting":
                return self._booting(rental, seen)
            case "reachable":
                return self._advance(rental, "fit", rental.since + rental.order.phases.accept)
            case "fit":
                return self._advance(rental, "ready", rental.since + rental.order.phases.prepare)
            case "ready":
                return self._ready(rental)
            case _:
                return self._draining(rental)

    def _over(self, rental: Rental, seen: Sight | None) -> str | None:
        """Why the rental must end at once, or None."""
        if self.now >= rental.end:
            return "its time is over"
        if rental.end_asked == "now":
            return "its end was asked for"
        if rental.end_asked and not (rental.order.managed and rental.state in ("ready", "draining")):
            return "its end was asked for"
        limit = rental.order.max_price_micros
        if rental.price is not None and rental.price.micros > limit:
            return f"unfit: it costs {rental.price} an hour, which is more than its order allows"
        instance = seen.instance if seen else None
        if instance is None:
            return None
        if instance.id != rental.instance_id:
            return "another instance of its name is there instead of it"
        if instance.state in ("ending", "ended"):
            return f"the provider ended it ({instance.raw_state})"
        if instance.name != rental.name and (instance.name or instance.state == "running"):
            return "unfit: the provider did not keep its name, without which nobody could end it later"
        return None

    def _lives(self, rental: Rental) -> bool:
        """A host that gives signs of life is not lost, whatever lists say."""
        at_work = rental.order.managed and rental.state in ("ready", "draining")
        return at_work and self.hosts.use(rental).silent_seconds < PROOF_SECONDS

    def _missed(self, rental: Rental, seen: Sight) -> Rental:
        """A list without the rental: it may be too young for lists, or lost."""
        if rental.asked is not None and seen.at < rental.asked + rental.order.settle_seconds:
            return rental
        if rental.missed is None:
            return self._write(rental, rental.state, "it is not listed", missed=seen.at)
        if seen.at >= rental.missed + PROOF_SECONDS:
            return self._end(rental, "lost: the provider does not list it any more")
        return rental

    def _booting(self, rental: Rental, seen: Sight | None) -> Rental:
        phases = rental.order.phases
        began = rental.asked if rental.asked is not None else rental.since
        if rental.addressed is None:
            return self._late(rental) if self.now >= began + phases.boot else rental
        if rental.order.managed:
            return self._advance(rental, "reachable", rental.addressed + phases.reach)
        if seen is not None and seen.instance is not None and seen.instance.state == "running":
            return self._write(rental, "ready", f"it runs at {rental.address}")
        return self._late(rental) if self.now >= began + phases.boot else rental

    def _late(self, rental: Rental) -> Rental:
        return self._end(rental, f"it did not boot within {rental.order.phases.boot / 60:g} min", UNFIT)

    def _advance(self, rental: Rental, goal: Goal, limit: float) -> Rental:
        try:
            progress = self.hosts.advance(rental, goal)
        except Exception as e:
            # Nothing that happens here keeps the limit from holding.
            log.exception("making %s %s", rental.name, goal)
            progress = Progress(why=f"{type(e).__name__}: {e}")
        if progress.unfit:
            return self._end(rental, f"unfit: {progress.unfit}", UNFIT)
        if progress.done:
            return self._write(rental, goal, progress.why)
        if self.now >= limit:
            why = f": {progress.why}" if progress.why else ""
            return self._end(rental, f"unfit: it was not {goal} in time{why}", UNFIT)
        return rental

    def _ready(self, rental: Rental) -> Rental:
        if not rental.order.managed:
            return rental
        phases = rental.order.phases
        if rental.end_asked:
            return self._write(rental, "draining", "its end was asked for")
        if self.now >= rental.end - phases.drain:
            return self._write(rental, "draining", "its time is almost over")
        use = self.hosts.use(rental)
        if use.unfit:
            return self._end(rental, f"unfit: {use.unfit}", UNFIT)
        if use.silent_seconds >= phases.lost:
            return self._end(rental, f"lost: no sign of life for {duration(use.silent_seconds)}")
        if dict(use.runs) != dict(rental.runs):
            return self._write(rental, "ready", "", runs=dict(use.runs))
        # What was seen before may be outdated: a job may have begun since.
        if not use.runs and min(use.looked, self.now) >= rental.idle_end:
            return self._write(rental, "draining", f"it had no job for {phases.idle / 60:g} min")
        return rental

    def _draining(self, rental: Rental) -> Rental:
        stop = self.now >= rental.end - STOP_SECONDS
        idle = self.hosts.drain(rental, "its rental ends", stop)
        return self._end(rental, "nothing runs on it") if idle else rental

    def _end(self, rental: Rental, why: str, code: str | None = None) -> Rental:
        self.hosts.forget(rental)
        try:
            return self._write(rental, "ending", why, runs={} if rental.runs else None, code=code)
        except OSError:
            # A full disk must not keep it running. When there is room again, lists tell that it has ended.
            if rental.instance_id is not None:
                self.cloud.terminate(rental.instance_id)
            raise

    def _ending(self, rental: Rental, seen: Sight | None) -> Rental:
        if seen is not None:
            if seen.instance is not None and seen.alive and seen.instance.id != rental.instance_id:
                why = "another instance of its name is listed: that one must end too"
                return self._write(rental, "ending", why, instance_id=seen.instance.id, seen=True)
            if None in rental.doubles.values():
                seen = None  # the rental lasts as long as any of its instances
            elif seen.instance is not None and not seen.alive:
                return self._write(rental, "gone", "the provider says that it has ended", ended=seen.at)
            elif seen.missing and rental.provable and self._settled(rental, seen.at):
                if rental.missed is None:
                    return self._write(rental, "ending", "it is not listed any more", missed=seen.at)
                if seen.at >= rental.missed + PROOF_SECONDS:
                    return self._write(rental, "gone", "it is not listed any more", ended=rental.missed)
            elif not seen.missing and rental.missed is not None:
                return self._write(rental, "ending", "it is listed again", seen=True)
        # A clock that was set back does not put the next attempt off.
        if not self.back and rental.attempts and 0 <= self.now - rental.last_attempt < _pause(rental.attempts):
            return rental
        return self._terminate(rental)

    def _settled(self, rental: Rental, at: float) -> bool:
        return rental.asked is None or at >= rental.asked + rental.order.settle_seconds

    def _terminate(self, rental: Rental) -> Rental:
        instance_id = rental.instance_id
        assert instance_id is not None
        # The reason to end it is in the ledger already: a full disk must not keep it running.
        with suppress(OSError):
            rental = self._write(rental, "ending", "asking the provider to end it")
        try:
            done = self.cloud.terminate(instance_id)
        except Unauthorized as e:
            return self._write(rental, "ending", str(e), answer="unauthorized")
        except CloudError as e:
            return self._write(rental, "ending", str(e), answer="unavailable")
        return self._write(rental, "ending", done.why, answer=done.answer)

    def _write(self, rental: Rental, state: State, why: str, **facts: Any) -> Rental:
        return self.ledger.append(rental, state, self.now, why, **facts)

    def _write_answer(self, rental: Rental, state: State, why: str, **facts: Any) -> Rental:
        """What the provider answered must be written, whatever another keeper wrote meanwhile."""
        host_keys.discard(self.ledger.folder(rental.id))
        while True:
            try:
                return self._write(rental, state, why, **facts)
            except Conflict:
                rental = self.ledger.read(rental.id)
            except IllegalTransition:
                if "instance_id" not in facts:
                    return rental
                state = "ending"


def _pause(attempts: int) -> float:
    """Seconds from the last of so many attempts to the next."""
    return min(FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, 10), LAST_RETRY_SECONDS)


def _facts(rental: Rental, seen: Sight) -> dict[str, Any]:
    """What the list says of the instance that the ledger does not have yet. Empty if that is nothing."""
    instance = seen.instance
    if instance is None:
        return {}
    facts: dict[str, Any] = {}
    if rental.state == "granted" or rental.instance_id is None:
        facts["raw_state"] = instance.raw_state[:100]
    price = _price(rental, instance)
    if price is not None and (rental.price is None or price > rental.price.micros):
        facts["price_micros"] = price
    if rental.order.billing_starts == "running" and instance.state == "pending":
        facts["began"] = seen.at
    if instance.endpoint is not None and instance.state == "running":
        address = f"{instance.endpoint.user}@{instance.endpoint.host}:{instance.endpoint.port}"
        if address != rental.address:
            facts["address"] = address
        if instance.endpoint.private_host not in (None, rental.private_host):
            facts["private_host"] = instance.endpoint.private_host
    return facts


def _price(rental: Rental, instance: Instance) -> int | None:
    """What the provider says that the instance costs, in micro-dollars per hour. An amount that is too low for any such
    host is an error in its unit, and would make the bill too low."""
    offer, price = rental.order.offer, instance.price
    if price is None or (price.micros < offer.price_micros and doubtful(price, offer.gpus)):
        return None
    return price.micros
