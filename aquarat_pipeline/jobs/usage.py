"""Which hosts a step used, and when: all of its attempts, those that lost their hosts too.

Recorded by the control host in a tag of the run, which hosts cannot write, and by its clock. A worker that takes over
from a dead one finds the record again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import ceil

import dagster as dg
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from aquarat_pipeline.hosts.host import Host, RentedHost
from aquarat_pipeline.tags import USED_TAG


class HostUse(BaseModel):
    """A host, or the part of it that the job takes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    gpus: int
    price_micros: int = 0
    """Micro-dollars per hour by the inventory; 0 if it gives no price."""
    rental: str | None = None

    @classmethod
    def of(cls, host: Host, gpus: int) -> HostUse:
        """A host with room for several jobs is paid in part: by the GPUs, or without GPUs by the number of jobs."""
        share = Fraction(1)
        if host.max_leases > 1:
            share = Fraction(min(gpus, host.gpus), host.gpus) if host.gpus and gpus else Fraction(1, host.max_leases)
        return cls(
            host=host.name,
            gpus=gpus,
            price_micros=ceil(Fraction(str(host.price_per_hour)) * 1_000_000 * share),
            rental=host.rental if isinstance(host, RentedHost) else None,
        )


class Use(BaseModel):
    """The hosts of one attempt. Times are in seconds since 1970."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    attempt: int
    began: float
    ended: float | None = None
    """None while the attempt may still run."""
    hosts: tuple[HostUse, ...]


_USES = TypeAdapter(tuple[Use, ...])


def uses(tags: Mapping[str, str], step: str) -> tuple[Use, ...]:
    """What the step has used, the first attempt first; nothing if it used no host of the inventory."""
    try:
        return _USES.validate_json(tags.get(USED_TAG + step, "[]"))
    except ValidationError:
        return ()  # changed by somebody, or by a version to come


def steps_with_uses(tags: Mapping[str, str]) -> list[str]:
    return [name.removeprefix(USED_TAG) for name in tags if name.startswith(USED_TAG)]


class UsageRecord:
    """Records what one step uses."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str, step: str, now: Callable[[], float]) -> None:
        self._instance = instance
        self._run_id = run_id
        self._step = step
        self._now = now

    def begin(self, attempt: int, hosts: Sequence[Host], gpus_on: Callable[[Host], int]) -> None:
        """The attempt runs on these hosts from now on, unless it is on record already."""
        known = self._known()
        if any(use.attempt == attempt for use in known):
            return
        now = self._now()
        ended = [use if use.ended is not None else use.model_copy(update={"ended": now}) for use in known]
        taken = tuple(HostUse.of(host, gpus_on(host)) for host in hosts)
        self._write([*ended, Use(attempt=attempt, began=now, hosts=taken)])

    def end(self) -> bool:
        """The last attempt has ended, or is given up; whether that was not on record yet."""
        known = self._known()
        if not known or known[-1].ended is not None:
            return False
        last = known[-1].model_copy(update={"ended": max(self._now(), known[-1].began)})
        self._write([*known[:-1], last])
        return True

    def _known(self) -> tuple[Use, ...]:
        run = self._instance.get_run_by_id(self._run_id)
        return uses(run.tags, self._step) if run else ()

    def _write(self, known: Iterable[Use]) -> None:
        text = _USES.dump_json(tuple(known), exclude_defaults=True).decode()
        self._instance.add_run_tags(self._run_id, {USED_TAG + self._step: text})
