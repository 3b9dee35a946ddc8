"""The machines of a fake cloud, their lives, and what they cost: integers of micro-dollars, so that no cent is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

MICROS_PER_CENT = 10_000


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    user: str
    private_host: str


@dataclass(frozen=True)
class Timing:
    """Seconds in the life of a machine."""

    boot: float = 180.0
    address_after: float = 0.0
    """After the boot."""
    ending: float = 30.0
    listed_after_end: float = 120.0
    list_lag: float = 0.0
    """A new machine is not in lists for so long."""
    missing_when_young: float = 0.0
    """A new machine is not found by its id for so long."""
    earliest_end: float = 0.0
    """Ending is refused sooner."""


@dataclass
class Machine:
    id: str
    name: str | None
    type: str
    region: str
    micros_per_hour: int
    ordered: float
    timing: Timing
    account: str
    ssh_key: str = ""
    gpus: int = 1
    asked: dict[str, Any] = field(default_factory=dict)
    """The order as it came."""
    authorized: str = ""
    """The public ssh key that may log in."""
    user_data: str | None = None
    address: Address | None = None
    end_asked: float | None = None
    vanished: float | None = None
    ends_itself: float | None = None
    unwell: bool = False

    def state(self, now: float) -> Literal["booting", "running", "ending", "ended", "absent"]:
        stops = [at for at in (self.vanished, self.ends_itself) if at is not None and at <= now]
        if stops:
            return "absent"
        if self.end_asked is not None and self.end_asked <= now:
            over = self.end_asked + self.timing.ending
            if now < over:
                return "ending"
            return "ended" if now < over + self.timing.listed_after_end else "absent"
        return "booting" if now < self.ordered + self.timing.boot else "running"

    def alive(self, now: float) -> bool:
        return self.state(now) in ("booting", "running", "ending")

    def listed(self, now: float) -> bool:
        return self.state(now) != "absent" and now >= self.ordered + self.timing.list_lag

    def found(self, now: float) -> bool:
        return self.state(now) != "absent" and now >= self.ordered + self.timing.missing_when_young

    def address_at(self, now: float) -> Address | None:
        ready = now >= self.ordered + self.timing.boot + self.timing.address_after
        return self.address if ready and self.state(now) == "running" else None

    def stopped(self, now: float) -> float | None:
        """When it stopped costing, or None while it costs."""
        ends = [at for at in (self.vanished, self.ends_itself) if at is not None]
        if self.end_asked is not None:
            ends.append(self.end_asked + self.timing.ending)
        past = [at for at in ends if at <= now]
        return min(past) if past else None

    def bill(self, now: float, from_running: bool, step: int) -> int:
        """Micro-dollars up to now, in begun steps of `step` seconds."""
        begins = self.ordered + self.timing.boot if from_running else self.ordered
        until = self.stopped(now)
        seconds = (now if until is None else until) - begins
        if seconds <= 0:
            return 0
        steps = int(seconds // step) + (seconds % step > 0)
        return -(-self.micros_per_hour * steps * step // 3600)


class Fleet(Protocol):
    """What stands behind the machines: perhaps real hosts with sshd."""

    def boot(self, machine: Machine) -> Address:
        """Called when a machine is ordered; its address becomes known when it runs."""
        ...

    def stop(self, machine: Machine) -> None:
        """Called when its end is accepted, or it vanishes."""
        ...


@dataclass
class NoFleet:
    """Addresses and nothing behind them. With `reuse` an address is given again as soon as its machine has ended."""

    user: str = "ubuntu"
    port: int = 22
    reuse: bool = False
    _next: int = 0
    _free: list[str] = field(default_factory=list)

    def boot(self, machine: Machine) -> Address:
        if self.reuse and self._free:
            host = self._free.pop(0)
        else:
            self._next += 1
            host = f"203.0.113.{self._next}"
        return Address(host, self.port, self.user, f"10.0.0.{host.rpartition('.')[2]}")

    def stop(self, machine: Machine) -> None:
        if machine.address is not None:
            self._free.append(machine.address.host)
