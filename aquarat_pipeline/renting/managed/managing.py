"""Rented hosts that run jobs: reached, examined, prepared, in the inventory, watched, drained and taken out again.

A keeper calls these methods every few seconds and must not wait for a host. So whatever speaks with one is done in a
thread (`background.py`), and its outcome is fetched in a later call. Nothing here outlives the keeper: the next one
begins each phase again, and every act may be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquarat_core.errors import UserError
from aquarat_pipeline.hosts import rentals
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.transports import HostError, HostKeyError
from aquarat_pipeline.renting.clouds.cloud import Account, Cloud
from aquarat_pipeline.renting.config import Limits, RentConfig, RentConfigError
from aquarat_pipeline.renting.managed import acceptance
from aquarat_pipeline.renting.managed.acceptance import Arming, Preparation
from aquarat_pipeline.renting.managed.background import Work
from aquarat_pipeline.renting.managed.hosting import Goal, Progress, Use
from aquarat_pipeline.renting.managed.pulse import Pulse, feel
from aquarat_pipeline.renting.managed.records import host_of, job_settings
from aquarat_pipeline.renting.rental import Rental

log = logging.getLogger(__name__)

ORPHAN_SECONDS = 1800.0
PATIENCE_SECONDS = 60.0
"""For so long after a host's address is known, or it was reached, what may pass by itself is waited for."""
RETRY_SECONDS: Mapping[Goal, float] = {"reachable": 5.0, "fit": 15.0, "ready": 60.0}
"""From one try to the next, as long as the host does not answer as it should."""
MOST_TRIES = 3
"""To prepare a host."""
BUSY_PAUSE = 1.0
FEEL_SECONDS = 10.0


@dataclass
class _Kept:
    """What is remembered of one rental; without it, a phase only begins again."""

    goal: Goal | None = None
    work: Work[tuple[Progress, RentedHost]] | None = None
    tries: int = 0
    again: float = 0.0
    why: str = ""
    watch: Work[Pulse] | None = None
    watched: float = 0.0
    """When the last watch began."""
    looked: float = 0.0
    """When the last watch began in which the host told its runs: one that is silent is not known to be idle."""
    decides: bool = False
    """Whether the watch tells that the host has been idle for long enough."""
    drain: tuple[str, bool] | None = None
    """Why no job may begin, and whether those at work are stopped, as the host was last told."""
    pulse: Pulse | None = None
    heard: float = 0.0
    """The last sign of life, or when listening began."""
    written: RentedHost | None = field(default=None)


class ManagedHosts:
    """The `Hosts` of a keeper."""

    def __init__(
        self,
        home: Path,
        now: Callable[[], float],
        connect: Callable[[Account], Cloud],
        config: Callable[[], RentConfig],
        *,
        checkout: Path | None = None,
        pip_options: str = "",
        power_off: bool = True,
        orphan_seconds: float = ORPHAN_SECONDS,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """`checkout` and `pip_options` are for `prepare`; `fields` are further ones of the hosts' records.

        The switch on a host lets it power itself off if `power_off`, and after `orphan_seconds` without a keeper.
        """
        self._home = home
        self._now = now
        self._connect = connect
        self._config = config
        self._preparation = Preparation(pip_options=pip_options)
        if checkout is not None:
            self._preparation = Preparation(checkout, pip_options)
        self._power_off = power_off
        self._orphan_seconds = orphan_seconds
        self._fields = dict(fields or {})
        self._all: dict[str, _Kept] = {}

    def pause(self, usual: float) -> float:
        """How long a keeper may rest: not as long as usual while a host is on its way, or may be empty at last."""
        busy = any(kept.goal or (kept.watch and (kept.drain or kept.decides)) for kept in self._all.values())
        return min(usual, BUSY_PAUSE) if busy else usual

    # --- on its way --------------------------------------------------------------------------------------------------

    def advance(self, rental: Rental, goal: Goal) -> Progress:
        kept = self._all.setdefault(rental.id, _Kept())
        if kept.goal != goal:
            kept.goal, kept.work, kept.tries, kept.again, kept.why = goal, None, 0, 0.0, ""
        now = self._now()
        if kept.work is None:
            # No wait is longer than a pause, even if the clock was set back.
            if not now < kept.again <= now + RETRY_SECONDS[goal]:
                try:
                    kept.work = self._begin(rental, goal, self._host(rental))
                except ValueError as e:
                    return Progress(unfit=f"its address {rental.address} cannot be used: {e}")
            return Progress(why=kept.why)
        if not kept.work.done:
            return Progress(why=kept.why)
        work, kept.work = kept.work, None
        kept.again, kept.tries = now + RETRY_SECONDS[goal], kept.tries + 1
        progress = self._finish(rental, goal, work, kept.tries)
        kept.why = progress.why
        return progress

    def _begin(self, rental: Rental, goal: Goal, host: RentedHost) -> Work[tuple[Progress, RentedHost]]:
        arming = self._arming(rental)
        cloud = self._connect(rental.order.account.account) if goal == "reachable" else None
        preparation, patience = self._preparation, self._now() < rental.since + PATIENCE_SECONDS
        min_mb_s = self._limits().download_mb_s

        def work() -> tuple[Progress, RentedHost]:
            if cloud is not None:
                return acceptance.reach(host, arming, cloud, rental.instance_id or ""), host
            if fired := arming.on(host):
                return Progress(unfit=fired), host
            if goal == "fit":
                return acceptance.accept(host, preparation, min_mb_s, patience), host
            return acceptance.make_ready(host, preparation)

        return Work(work)

    def _finish(self, rental: Rental, goal: Goal, work: Work[tuple[Progress, RentedHost]], tries: int) -> Progress:
        """What came of the work. The record is written here, so that no thread brings back one that was forgotten."""
        try:
            progress, host = work.outcome()
            if progress.done and goal == "ready":
                self._write(rental, host.model_copy(update=self._job_settings(rental)))
            return progress
        except HostKeyError as e:
            first = goal == "reachable"
            young = first and self._now() < (rental.addressed or 0.0) + PATIENCE_SECONDS
            hint = ". If that happens with every host of the account, see docs/clouds.md, accounts" if first else ""
            return Progress(
                unfit=None if young else f"its host key is not the one that was pinned: {e}{hint}", why=str(e)
            )
        except HostError as e:
            tired = goal == "ready" and tries >= MOST_TRIES
            return Progress(unfit=f"it could not be prepared: {e}" if tired else None, why=str(e))
        except (UserError, OSError) as e:
            return Progress(why=str(e))
        except Exception as e:
            log.exception("making %s %s", rental.name, goal)
            return Progress(why=f"{type(e).__name__}: {e}")

    # --- at work -----------------------------------------------------------------------------------------------------

    def use(self, rental: Rental) -> Use:
        kept = self._watch(rental, drain=None)
        try:
            self._update(rental, kept)
        except (UserError, OSError, ValueError) as e:
            log.warning("%s: %s", rental.name, e)
        pulse = kept.pulse
        runs = rental.runs if pulse is None or pulse.runs is None else pulse.runs
        return Use(runs, max(0.0, self._silence(kept)), pulse.unfit if pulse else None, kept.looked)

    def drain(self, rental: Rental, why: str, stop: bool) -> bool:
        kept = self._watch(rental, drain=(why, stop))
        try:
            self._update(rental, kept)
        except (UserError, OSError, ValueError) as e:
            log.warning("%s: %s", rental.name, e)
        if kept.pulse is None:
            return False
        lost = self._silence(kept) >= rental.order.phases.lost
        return lost or kept.pulse.unfit is not None or kept.pulse.drained

    def _watch(self, rental: Rental, drain: tuple[str, bool] | None) -> _Kept:
        """Fetches the last look at the host, and begins the next."""
        now = self._now()
        kept = self._all.setdefault(rental.id, _Kept())
        kept.goal, kept.work = None, None
        kept.heard = min(kept.heard or now, now)
        if kept.watch is not None and kept.watch.done:
            watch, kept.watch = kept.watch, None
            try:
                kept.pulse = watch.outcome()
                if kept.pulse.runs is not None:
                    kept.looked = kept.watched
                if kept.pulse.alive:
                    kept.heard = now
            except Exception:
                log.exception("watching %s", rental.name)
        decides = not rental.runs and kept.watched < rental.idle_end <= now
        due = decides or drain != kept.drain or not kept.watched <= now < kept.watched + FEEL_SECONDS - 1
        if kept.watch is None and due:
            with suppress(ValueError):
                host, arming, before = kept.written or self._host(rental), self._arming(rental), kept.pulse
                runs = tuple(rental.runs)
                kept.watch = Work(lambda: feel(host, arming, runs, before, drain))
                kept.watched, kept.drain, kept.decides = now, drain, decides
        return kept

    def _silence(self, kept: _Kept) -> float:
        """Seconds since the last sign of life; 0 until a look at the host has failed."""
        return 0.0 if kept.pulse is None or kept.pulse.alive else self._now() - kept.heard

    def forget(self, rental: Rental) -> None:
        self._all.pop(rental.id, None)
        with suppress(OSError):
            (self._folder(rental) / rentals.RECORD).unlink(missing_ok=True)
        if rental.order.managed and rental.address is not None:
            # Whatever it is: nothing keeps a host from being ended.
            with suppress(Exception):
                rentals.remove(self._host(rental))

    # --- its record --------------------------------------------------------------------------------------------------

    def _host(self, rental: Rental) -> RentedHost:
        return host_of(rental, self._folder(rental), self._fields)

    def _folder(self, rental: Rental) -> Path:
        return rentals.folder_of(self._home, rental.id)

    def _update(self, rental: Rental, kept: _Kept) -> None:
        """Writes the record again if the rental's end, address or price is another now."""
        if kept.written is None:
            kept.written = rentals.find(self._home, rental.id)
        new = self._host(rental)
        if kept.written is None:
            self._write(rental, new.model_copy(update=self._job_settings(rental)))
            return
        facts = ("address", "port", "user", "expires", "margin_seconds", "price_per_hour")
        changed = {name: getattr(new, name) for name in facts}
        if any(getattr(kept.written, name) != value for name, value in changed.items()):
            self._write(rental, kept.written.model_copy(update=changed))

    def _write(self, rental: Rental, host: RentedHost) -> None:
        rentals.write(host)
        self._all.setdefault(rental.id, _Kept()).written = host

    def _job_settings(self, rental: Rental) -> dict[str, Any]:
        """Raises `RentConfigError`: a host that lacks its jobs' settings is not ready."""
        return {**job_settings(rental, self._config(), self._folder(rental)), **self._fields}

    def _limits(self) -> Limits:
        try:
            return self._config().limits
        except RentConfigError:
            return Limits()

    def _arming(self, rental: Rental) -> Arming:
        return Arming(max(rental.end - self._now(), 0.0), self._orphan_seconds, self._power_off)
