"""A small strict cloud within the process: it keeps time and a meter, and shows the faults that it is told to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from aquarat_pipeline.renting import names
from aquarat_pipeline.renting.clouds.model import (
    Capabilities,
    Endpoint,
    Granted,
    Instance,
    Listing,
    NoCapacity,
    Offer,
    Order,
    OutcomeUnknown,
    Rate,
    Refused,
    State,
    Termination,
    Unauthorized,
    Unavailable,
    Unreadable,
)
from aquarat_pipeline.renting.money import ZERO, Money, bill

RentFault = Literal[
    "", "made, unknown", "made, unknown with id", "not made, unknown", "made twice", "capacity", "quota", "late",
    "ghost", "dear", "nameless",
]  # fmt: skip
STEP = 60
ENDPOINT = Endpoint("203.0.113.7", 22, "ubuntu", None)
A10 = Offer("lambda", "gpu_1x_a10@us-east-1", "gpu_1x_a10", "us-east-1", 1, "A10", Money.cents(129), "yes")
CAPABILITIES = Capabilities(
    idempotent=False, ends_itself=None, poweroff_stops_billing=False, user_data=True, host_key="user_data",
    name_length=64, renames=True, tags=True, balance=False, billing_starts="asked", billing_step_seconds=STEP,
    settle_seconds=300, not_before_seconds=0, rate=Rate(1, 12),
)  # fmt: skip


@dataclass
class Machine:
    """An instance as the provider knows it."""

    id: str
    name: str | None
    price: Money
    made: float
    asked_to_end: float | None = None
    ended: float | None = None
    deaf: int = 0
    """Requests to end it that are accepted without effect."""
    offer: Offer = A10

    def alive_at(self, at: float) -> bool:
        return self.ended is None or at < self.ended


@dataclass
class SmallCloud:
    """One account. Times are in seconds; faults are attributes that a test sets."""

    now: Callable[[], float]
    account: str = "lambda"
    capabilities: Capabilities = CAPABILITIES
    machines: list[Machine] = field(default_factory=list[Machine])
    rents: list[str] = field(default_factory=list[str])
    terminated: list[str] = field(default_factory=list[str])
    rent_fault: RentFault = ""
    boot: float = 100
    ending: float = 20
    lag: float = 0
    """A new instance is missing in lists for so long."""
    listed_after_end: float = 120
    list_fault: Callable[[float], str] = lambda _: ""
    """For a time: "", "down", "incomplete" or "unauthorized"."""
    terminate_fault: Callable[[float], str] = lambda _: ""
    """For a time: "", "down", "refused", "unauthorized", "done but down" or "gone", which is said without effect."""
    deaf: int = 0
    price: Money = A10.price
    status: State | None = None
    """Shown in place of `running`."""
    orders: list[Order] = field(default_factory=list[Order])
    endpoint: Endpoint = ENDPOINT
    keys: tuple[str, ...] = ()
    """What it tells of host keys."""
    offered: tuple[Offer, ...] = (A10,)
    looks: list[float] = field(default_factory=list[float])
    """When offers were asked for."""
    sold_out: set[str] = field(default_factory=set[str])
    """Ids of offers that are refused for lack of capacity, although they are shown as available."""
    credit: Money | None = None

    def offers(self) -> tuple[Offer, ...]:
        self.looks.append(self.now())
        return self.offered

    def add(self, name: str | None, offer: Offer = A10) -> Machine:
        """An instance that somebody else made."""
        machine = Machine(f"i-{len(self.machines)}", name, self.price, self.now(), deaf=self.deaf, offer=offer)
        self.machines.append(machine)
        return machine

    def rent(self, offer: Offer, order: Order) -> Instance | Granted:
        assert offer in self.offered and names.parse(order.name), "an order of no offer, or without a name of ours"
        assert order.end > self.now() and order.ssh_key_name == "key-of-" + order.ssh_public_key
        self.rents.append(order.name)
        self.orders.append(order)
        fault, self.rent_fault = self.rent_fault, ""
        if offer.id in self.sold_out:
            fault = "capacity"
        match fault:
            case "capacity":
                raise NoCapacity("insufficient-capacity", "none left")
            case "quota":
                raise Refused("quota-exceeded", "over the quota", "account")
            case "not made, unknown":
                raise OutcomeUnknown("504")
            case "ghost":
                return Granted("i-ghost")
            case _:
                pass
        made = self.add(None if fault == "nameless" else order.name, offer)
        if offer is not A10:
            made.price = offer.price
        if fault == "dear":
            made.price = Money.dollars(40)
        if fault == "made twice":
            self.add(order.name)
        if fault == "late":
            made.made += 200
        if fault in ("made, unknown", "made twice", "late"):
            raise OutcomeUnknown("500")
        if fault == "made, unknown with id":
            raise OutcomeUnknown("success: false", made.id)
        return Granted(made.id)

    def list(self) -> Listing:
        now = self.now()
        match self.list_fault(now):
            case "down":
                raise Unavailable("503")
            case "unauthorized":
                raise Unauthorized("401")
            case "incomplete":
                return Listing((), (Unreadable(None, None, "no id"),), False, now)
            case _:
                pass
        shown = [
            self._shown(machine)
            for machine in self.machines
            if now >= machine.made + self.lag and (machine.ended is None or now < machine.ended + self.listed_after_end)
        ]
        return Listing(tuple(shown), (), True, now)

    def _shown(self, machine: Machine) -> Instance:
        now = self.now()
        state: State = "running" if now >= machine.made + self.boot else "pending"
        if not machine.alive_at(now):
            state = "ended"
        elif machine.asked_to_end is not None:
            state = "ending"
        if state == "running" and self.status is not None:
            state = self.status
        address = self.endpoint if state == "running" else None
        created = datetime.fromtimestamp(machine.made, UTC)
        key = () if machine.id in self.foreign else ("key-of-ssh-ed25519 AAAA",)
        return Instance(
            machine.id,
            machine.name,
            state,
            state,
            address,
            machine.price,
            created,
            machine.offer.type,
            machine.offer.region,
            key,
        )

    def get(self, instance_id: str) -> Instance | None:
        raise AssertionError("nothing is decided by this")

    def terminate(self, instance_id: str) -> Termination:
        self.terminated.append(instance_id)
        now = self.now()
        fault = self.terminate_fault(now)
        if fault == "down":
            raise Unavailable("500: try again in 60 s")
        if fault == "unauthorized":
            raise Unauthorized("401")
        if fault == "refused":
            return Termination("refused", "vm-has-not-launched")
        if fault == "gone":
            return Termination("gone", "404")
        machine = next((m for m in self.machines if m.id == instance_id), None)
        if machine is None or not machine.alive_at(now):
            return Termination("gone", "404")
        if machine.deaf:
            machine.deaf -= 1
        elif machine.asked_to_end is None:
            machine.asked_to_end, machine.ended = now, now + self.ending
        if fault == "done but down":
            raise Unavailable("the connection broke")
        return Termination("accepted")

    def balance(self) -> Money | None:
        return self.credit

    def ensure_ssh_key(self, name: str, public_key: str) -> str:
        return f"key-of-{public_key}"

    def host_keys(self, instance_id: str) -> tuple[str, ...]:
        return self.keys

    def ours(self) -> list[Machine]:
        return [machine for machine in self.machines if machine.id not in self.foreign]

    foreign: set[str] = field(default_factory=set[str])

    def alive(self) -> list[Machine]:
        return [machine for machine in self.ours() if machine.alive_at(self.now())]

    def billed(self) -> Money:
        """For our instances, from their order to their end."""
        total = ZERO
        for machine in self.ours():
            end = self.now() if machine.ended is None else min(machine.ended, self.now())
            total += bill(machine.price, end - machine.made, STEP)
        return total
