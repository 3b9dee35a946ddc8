"""A rental: its order, and its state as the fold of its events.

    intended ─▶ asking ─▶ granted ─▶ booting ─▶ reachable ─▶ fit ─▶ ready ─▶ draining ─▶ ending ─▶ gone
                  │  │        any of these can go to ending at once ────────────────────────▲
                  │  └▶ refused                                                             │
                  └▶ unclear ── found by its name ─▶ granted                                │
                        └ not listed when it should be ─▶ absent ── listed later ───────────┘

`refused`, `absent` and `gone` are final, unless the provider lists the instance after all: then it must end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from aquarat_core.errors import UserError
from aquarat_pipeline.renting import names
from aquarat_pipeline.renting.clouds.cloud import KINDS, Account
from aquarat_pipeline.renting.clouds.model import Availability, BillingStart, Offer
from aquarat_pipeline.renting.money import Money

State = Literal[
    "intended", "asking", "unclear", "granted", "booting", "reachable", "fit", "ready", "draining", "ending",
    "refused", "absent", "gone",
]  # fmt: skip
STATES: tuple[State, ...] = get_args(State)
FINAL: frozenset[State] = frozenset(("refused", "absent", "gone"))
ALIVE: frozenset[State] = frozenset(("granted", "booting", "reachable", "fit", "ready", "draining"))
"""An instance is known by its id, and nothing ends it yet."""
_FORWARD: Mapping[State, tuple[State, ...]] = MappingProxyType(
    {
        "intended": ("asking", "refused", "granted"),
        "asking": ("granted", "refused", "unclear", "ending"),
        "unclear": ("granted", "absent", "ending", "refused"),
        "granted": ("booting", "ending"),
        "booting": ("reachable", "ready", "ending"),
        "reachable": ("fit", "ending"),
        "fit": ("ready", "ending"),
        "ready": ("draining", "ending"),
        "draining": ("ending",),
        "ending": ("gone",),
        "refused": ("ending",),
        "absent": ("ending",),
        "gone": ("ending",),
    }
)
UNFIT = "unfit"
"""The code of an end that says something about the offer."""
Micros = Annotated[int, Field(ge=0)]


class IllegalTransition(UserError):
    """A rental cannot go from its state to that one."""


class Phases(BaseModel):
    """Limits, in seconds, after which a rental that does not get on is ended."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    boot: Annotated[float, Field(gt=0)] = 1200
    reach: Annotated[float, Field(gt=0)] = 600
    accept: Annotated[float, Field(gt=0)] = 300
    prepare: Annotated[float, Field(gt=0)] = 1800
    lost: Annotated[float, Field(gt=0)] = 900
    """Unwell and out of touch."""
    drain: Annotated[float, Field(ge=0)] = 600
    """Before its end, no job is begun any more."""
    idle: Annotated[float, Field(gt=0)] = 600
    """Without a job."""


class OfferRecord(BaseModel):
    """The offer that was taken, as it was shown."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    cloud: str
    id: str
    type: str
    region: str
    gpus: Annotated[int, Field(ge=0)]
    gpu_model: str
    price_micros: Micros
    available: Availability = "unknown"
    gpu_memory_gb: int | None = None
    vcpus: int | None = None
    memory_gb: int | None = None
    disk_gb: int | None = None
    arch: str = "x86_64"
    network: str = ""
    detail: str = ""

    @classmethod
    def of(cls, offer: Offer) -> OfferRecord:
        known = {field.name: getattr(offer, field.name) for field in fields(Offer) if field.name != "price"}
        return cls(price_micros=offer.price.micros, **known)

    @property
    def offer(self) -> Offer:
        return Offer(price=Money(self.price_micros), **self.model_dump(exclude={"price_micros"}))


class AccountRecord(BaseModel):
    """Which account was asked, so that a rental can be ended without rent.yaml."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    cloud: str
    key_variable: str | None = None
    address: str | None = None
    options: dict[str, object] = {}

    @field_validator("cloud")
    @classmethod
    def _known(cls, cloud: str) -> str:
        if cloud not in KINDS:
            raise ValueError(f"there is no cloud {cloud!r}: this version knows {', '.join(KINDS)}")
        return cloud

    @classmethod
    def of(cls, account: Account) -> AccountRecord:
        return cls(
            name=account.name, cloud=account.cloud, key_variable=account.key_variable, address=account.address,
            options=dict(account.options),
        )  # fmt: skip

    @property
    def place(self) -> tuple[object, ...]:
        """The same for all names that rent.yaml may give to one account."""
        variable = self.key_variable or KINDS[self.cloud].key_variable
        return self.cloud, variable, self.address, self.options.get("project")

    @property
    def account(self) -> Account:
        return Account(self.name, self.cloud, self.key_variable, self.address, self.options)


class RentalOrder(BaseModel):
    """What was decided before anything was asked, with every limit that the rental needs until it is gone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    version: Literal[1] = 1
    name: str
    """`aq-<installation>-<rental>-<end>`; its end is the outermost."""
    account: AccountRecord
    offer: OfferRecord
    ordered: float
    """Unix seconds, as are all times here."""
    end: float
    """When it is to end. May be moved, up to the end in its name."""
    max_price_micros: Annotated[int, Field(gt=0)]
    """Per hour. An instance that costs more is ended at once."""
    billing_starts: BillingStart
    billing_step_seconds: Annotated[int, Field(gt=0)]
    settle_seconds: Annotated[int, Field(ge=0)]
    not_before_seconds: Annotated[int, Field(ge=0)] = 0
    phases: Phases = Phases()
    label: str = ""
    pool: str | None = None
    run: str | None = None
    """The run that it was rented for."""
    run_budget_micros: Annotated[int, Field(gt=0)] | None = None
    """What rentals for that run may cost in all."""
    image: str | None = None
    managed: bool = False
    """It is prepared for jobs, and ended when idle. Otherwise it is ready when its address is known."""

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if names.parse(name) is None:
            raise ValueError(f"{name!r} is not the name of a rental")
        return name

    @property
    def parts(self) -> names.RentalName:
        found = names.parse(self.name)
        assert found is not None
        return found

    @property
    def rental(self) -> str:
        return self.parts.rental

    @property
    def last_end(self) -> int:
        return self.parts.end


class Event(BaseModel):
    """One step of a rental, or one more fact about it in the same state."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    state: State
    at: float
    why: str = ""
    by: str = ""
    instance_id: str | None = None
    double_id: str | None = None
    """A second instance of the same name. It is being ended; with `ended`, it has."""
    price_micros: Micros | None = None
    raw_state: str | None = None
    address: str | None = None
    """`user@host:port`."""
    private_host: str | None = None
    """Its address in the provider's network."""
    code: str | None = None
    """Of a refusal, the provider's; `unfit` for the end of a host that was not as offered."""
    scope: str | None = None
    """What a refusal is about."""
    ssh_key: str | None = None
    """The name of our key at the provider."""
    end: float | None = None
    """The new time at which it is to end."""
    end_asked: Literal["drain", "now"] | None = None
    """Somebody wants it to end."""
    answer: Literal["accepted", "gone", "refused", "unavailable", "unauthorized"] | None = None
    """To a request to end it."""
    missed: float | None = None
    """A complete list of that time did not have it."""
    seen: bool = False
    """It was listed after it had been missed."""
    runs: dict[str, int] | None = None
    """Which runs use how many of its GPUs from now on."""
    began: float | None = None
    """The instance was not running yet at this time."""
    ended: float | None = None
    """The instance was certainly not running any more at this time."""


@dataclass(frozen=True, slots=True)
class Rental:
    """A rental after its events so far."""

    order: RentalOrder
    events: tuple[Event, ...] = ()
    state: State = "intended"
    since: float = 0.0
    """When it came into this state."""
    asked: float | None = None
    ssh_key: str | None = None
    """The name at the provider of the key that was ordered with it."""
    instance_id: str | None = None
    price: Money | None = None
    """The highest that the provider has named for the instance, per hour."""
    address: str | None = None
    private_host: str | None = None
    addressed: float | None = None
    """When the address became known."""
    end: float = 0.0
    end_asked: Literal["drain", "now"] | None = None
    attempts: int = 0
    """Requests to end it so far."""
    last_attempt: float = 0.0
    provable: bool = False
    """The provider accepted a request to end it, or knows no such instance."""
    missed: float | None = None
    """The first of the complete lists in a row that did not have it."""
    doubles: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    """Other instances that were made for the order, and when each had ended. They cost as much."""
    runs: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    runs_since: float = 0.0
    began: float | None = None
    """The last time at which the instance was known not to run yet."""
    ended: float | None = None
    """The first time at which it was proved not to run any more."""

    @classmethod
    def of(cls, order: RentalOrder, events: Iterable[Event]) -> Rental:
        """Raises `IllegalTransition`."""
        rental = cls(order, since=order.ordered, end=order.end)
        for event in events:
            rental = rental.followed_by(event)
        return rental

    def followed_by(self, event: Event) -> Rental:
        """After one more event. Raises `IllegalTransition`."""
        if event.state != self.state and event.state not in _FORWARD[self.state]:
            raise IllegalTransition(f"{self.order.name} is {self.state} and cannot become {event.state}")
        if self.state in FINAL and event.state == self.state:
            raise IllegalTransition(f"{self.order.name} is {self.state}: nothing more can happen to it")
        if event.state in ALIVE | {"ending"} and not (event.instance_id or self.instance_id):
            raise IllegalTransition(f"{self.order.name} cannot become {event.state}: no instance is known")
        if event.end is not None and event.end > self.order.last_end:
            raise IllegalTransition(f"{self.order.name} cannot outlive the end in its name")
        moved = event.state != self.state
        attempted = event.answer is not None
        missed = None if event.seen else self.missed if event.missed is None else self.missed or event.missed
        return replace(
            self,
            events=(*self.events, event),
            state=event.state,
            since=event.at if moved else self.since,
            asked=event.at if event.state == "asking" and self.asked is None else self.asked,
            ssh_key=event.ssh_key or self.ssh_key,
            instance_id=event.instance_id or self.instance_id,
            price=self._price(event),
            address=event.address or self.address,
            private_host=event.private_host or self.private_host,
            addressed=event.at if event.address and self.addressed is None else self.addressed,
            end=self.end if event.end is None else event.end,
            end_asked=event.end_asked or self.end_asked,
            attempts=self.attempts + attempted if event.state == "ending" else self.attempts,
            last_attempt=event.at if attempted else self.last_attempt,
            provable=(self.provable and not event.seen) or event.answer in ("accepted", "gone"),
            # What was missed before it was to end is not the proof that it has ended.
            missed=None if moved else missed,
            doubles=self._doubles(event),
            runs=self.runs if event.runs is None else event.runs,
            runs_since=event.at if event.runs is not None else self.runs_since,
            began=self.began if event.began is None else event.began,
            ended=event.ended if moved else self.ended,
        )

    def _doubles(self, event: Event) -> Mapping[str, float | None]:
        if event.double_id is not None:
            return {**self.doubles, event.double_id: event.ended}
        if self.instance_id is None or event.instance_id in (None, self.instance_id):
            return self.doubles
        # Another takes the place of one that is not listed any more.
        others = {one: end for one, end in self.doubles.items() if one != event.instance_id}
        return {**others, self.instance_id: event.at}

    def _price(self, event: Event) -> Money | None:
        if event.price_micros is None:
            return self.price
        named = Money(event.price_micros)
        return named if self.price is None else max(self.price, named)

    @property
    def id(self) -> str:
        return self.order.rental

    @property
    def name(self) -> str:
        return self.order.name

    @property
    def unfit(self) -> Event | None:
        """The event that ended it because it was not as offered, if that was the reason."""
        return next((event for event in self.events if event.state == "ending" and event.code == UNFIT), None)

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def idle_since(self) -> float:
        """Since when it has had no job, if it is ready and has none."""
        return max(self.since, self.runs_since)

    @property
    def idle_end(self) -> float:
        """When it is drained if it is ready and has no job."""
        return self.idle_since + self.order.phases.idle

    @property
    def hourly(self) -> Money:
        """What it costs per hour: as the provider said after the grant, before that as it was offered."""
        return self.price if self.price is not None else Money(self.order.offer.price_micros)
