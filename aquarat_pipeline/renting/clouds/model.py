"""What all clouds have in common: offers, orders, instances, and how a request can end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from aquarat_core.errors import UserError
from aquarat_pipeline.renting.money import Money

Availability = Literal["yes", "no", "unknown"]
State = Literal["pending", "running", "unwell", "ending", "ended", "unknown"]
"""`unknown` for a status of the provider that this version does not know: neither ready nor gone."""
HostKey = Literal["given", "user_data", "guest_attributes", "first_use"]
"""How a host's ssh key becomes known: the API tells it, we give it, the guest publishes it, the first look decides."""
BillingStart = Literal["asked", "running"]
Scope = Literal["offer", "region", "account"]
"""What a refusal is about, and so what need not be tried again soon."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a provider may be asked, in seconds between requests; of rents besides."""

    every: float
    rent_every: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request: seconds, and bytes of an answer."""

    connect: float = 10.0
    read: float = 30.0
    rent_read: float = 60.0
    call: float = 90.0
    """The whole of it."""
    body: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Capabilities:
    idempotent: bool
    """A repeated order makes no second instance. Elsewhere an order is sent once, whatever the answer."""
    ends_itself: tuple[int, int] | None
    """The provider ends an instance after a time that the order gives: between these seconds. None if it cannot."""
    poweroff_stops_billing: bool
    user_data: bool
    host_key: HostKey
    name_length: int
    renames: bool
    tags: bool
    balance: bool
    billing_starts: BillingStart
    billing_step_seconds: int
    settle_seconds: int
    """An instance may be missing in lists for so long after its order."""
    not_before_seconds: int
    """An instance cannot be ended sooner after its order."""
    rate: Rate
    private_network: bool = True
    """Hosts of one region reach each other, as the processes of a job on several hosts have to."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A kind of host at a place, with its price now. Sizes are None where the provider does not tell them."""

    cloud: str
    id: str
    """Names the offer within its cloud, for example `gpu_1x_a10@us-east-1`."""
    type: str
    region: str
    gpus: int
    gpu_model: str
    price: Money
    """Of the whole host, per hour."""
    available: Availability
    gpu_memory_gb: int | None = None
    vcpus: int | None = None
    memory_gb: int | None = None
    disk_gb: int | None = None
    arch: str = "x86_64"
    network: str = ""
    """How such hosts are connected, where orders have to repeat it."""
    detail: str = ""
    """More about the offer, or why it cannot be rented."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for besides the offer."""

    name: str
    """A rental's name (`names.py`); one that is never used again."""
    end: int
    """The hard end of the instance's life in Unix seconds, given to providers that end instances themselves."""
    ssh_key_name: str
    """As `ensure_ssh_key` returned it."""
    ssh_public_key: str
    user_data: str | None = None
    """For cloud-init; holds no secret but a host key."""
    image: str | None = None
    """A family of images; the provider's default if None."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int
    user: str
    private_host: str | None


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as the provider describes it, without the secrets that some descriptions hold."""

    id: str
    name: str | None
    state: State
    raw_state: str
    endpoint: Endpoint | None
    """None until the provider tells an address, and perhaps later too."""
    price: Money | None
    """Per hour, as the provider bills it; None if it does not say so."""
    created: datetime | None
    """By the provider's clock, for display only. None if it is missing or cannot be read."""
    type: str = ""
    region: str = ""
    ssh_key_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Granted:
    """A rent that was answered with no more than the instance's id."""

    id: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An entry of a list that lacks what every instance has. It may be ours, and may cost money."""

    id: str | None
    name: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All instances of an account at one time."""

    instances: tuple[Instance, ...]
    unreadable: tuple[Unreadable, ...]
    complete: bool
    """Whether an instance that is not here does not exist: False if there is an entry with neither id nor name."""
    at: float
    """Unix seconds, before the request was sent."""
    clock_ahead: float | None = None
    """By how many seconds this machine's clock is ahead of the provider's, if the provider told its time."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something other than an instance that an account pays for until somebody deletes it."""

    kind: Literal["filesystem", "disk"]
    id: str
    name: str
    region: str
    in_use: bool
    """An instance uses it now."""


@dataclass(frozen=True, slots=True)
class Termination:
    """The answer to a request to end an instance. Not even `accepted` or `gone` proves that it has ended."""

    answer: Literal["accepted", "gone", "refused"]
    why: str = ""


class CloudError(UserError):
    """A request to a cloud that did not do what it should. The message says which cloud and why, without keys."""


class Refused(CloudError):
    """The provider declined: no instance came of the request."""

    def __init__(self, code: str, why: str, scope: Scope) -> None:
        super().__init__(why)
        self.code = code
        self.scope: Scope = scope


class NoCapacity(Refused):
    """The provider has no such host left there."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(code, why, "offer")


class OutcomeUnknown(CloudError):
    """Nobody knows whether the order made an instance. It is never repeated, but looked for by its name."""

    def __init__(self, why: str, instance_id: str | None = None) -> None:
        """`instance_id` if the answer named one: then it exists."""
        super().__init__(why)
        self.instance_id = instance_id


class Unavailable(CloudError):
    """The provider could not be asked, or did not answer as it should. Another try may help."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Unauthorized(CloudError):
    """The provider does not take the key, or the account is blocked: a person must act."""
