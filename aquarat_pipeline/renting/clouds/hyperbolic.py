"""Hyperbolic, API version 2, on-demand virtual machines.

Credit is prepaid, and a rental costs from when it runs. Prices are cents per hour of the whole machine. A rental's
label is its name. There is no key against double orders, no limit of time, no user data, and no way to know a host's
key but to look.

The published description of the API could not be read when this was written: shapes are from the maker's Go package
and from transcripts of others. Keys for ssh are managed on the website, because the path for it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from aquarat_core.plain_text import one_line
from aquarat_pipeline.renting.clouds.cloud import Account, Cloud, Surroundings
from aquarat_pipeline.renting.clouds.http import JsonClient, Reply
from aquarat_pipeline.renting.clouds.model import (
    Capabilities,
    Endpoint,
    Granted,
    Instance,
    Leftover,
    Listing,
    Offer,
    Order,
    Rate,
    Scope,
    State,
    Termination,
    Unavailable,
)
from aquarat_pipeline.renting.clouds.reading import (
    amount_in_cents,
    field,
    id_in,
    integer,
    listing,
    member,
    members,
    price_in_cents,
    text,
    when,
)
from aquarat_pipeline.renting.clouds.service import Failure, Meaning, Service, failure
from aquarat_pipeline.renting.money import Money

ADDRESS = "https://api.hyperbolic.ai/v2"
CAPABILITIES = Capabilities(
    idempotent=False,
    ends_itself=None,
    poweroff_stops_billing=False,
    user_data=False,
    host_key="first_use",
    name_length=25,  # of a label; longer ones are not known to come back whole
    renames=False,
    tags=False,
    balance=True,
    billing_starts="running",
    billing_step_seconds=60,
    settle_seconds=300,
    not_before_seconds=0,
    rate=Rate(every=1.0, rent_every=1.0),
    private_network=False,
)
_RENTALS = "/on-demand/virtual-machine-rentals"
_STATES: Mapping[str, State] = {
    "pending": "pending",
    "running": "running",
    "terminating": "ending",
    "terminated": "ended",
}
_FAILURES: Mapping[str, tuple[Meaning, Scope]] = {
    "AlreadyTerminated": ("missing", "offer"),
    "RentalNotFound": ("missing", "offer"),
    "NotFound": ("missing", "offer"),
    "InsufficientBalance": ("refused", "account"),
    "NoPublicKey": ("refused", "account"),
    "RegionDisabled": ("refused", "region"),
    "CustomPortsNotSupportedForRegion": ("refused", "region"),
    "FailedToCalculateCostPerHour": ("capacity", "offer"),
    "Unauthorized": ("key", "account"),
}


def connect(account: Account, key: str, surroundings: Surroundings) -> Cloud:
    client = JsonClient(account.address or ADDRESS, key, surroundings.limits)
    service = Service(account.name, "hyperbolic", client, CAPABILITIES.rate, surroundings, explain)
    return Hyperbolic(account.name, service)


class Hyperbolic:
    capabilities = CAPABILITIES

    def __init__(self, account: str, service: Service) -> None:
        self.account = account
        self._service = service

    def offers(self) -> tuple[Offer, ...]:
        options = _array(self._service.read("/on-demand/rental-options", "offers"), "rental-options")
        machines = (one for one in options if text(one, "machineType", "rental-options") == "virtual-machine")
        return tuple(map(_offer, machines))

    def rent(self, offer: Offer, order: Order) -> Instance | Granted:
        body = {
            "gpuType": offer.type,
            "region": offer.region,
            "gpuCount": offer.gpus,
            "networkType": offer.network,
            "termType": "on-demand",
            "label": order.name,
        }
        made, answer = self._service.rent(_RENTALS, body, lambda raw: id_in(raw, "id"))
        try:
            return _rental(answer)
        except Unavailable:
            return Granted(made)

    def list(self) -> Listing:
        at = self._service.now()
        entries = _array(self._service.read(_RENTALS), "rentals")
        return listing(entries, _rental, at, self._service.clock_ahead, name_field="label")

    def get(self, instance_id: str) -> Instance | None:
        """None if the list of active rentals does not have it: there is no request for a single one."""
        found = self.list()
        if any(one.id == instance_id for one in found.unreadable) or not found.complete:
            raise Unavailable(f"{self.account}: the record of rental {instance_id} cannot be read")
        return next((one for one in found.instances if one.id == instance_id), None)

    def terminate(self, instance_id: str) -> Termination:
        if not instance_id.isascii() or not instance_id.isdigit():
            return Termination("refused", f"{self.account}: {one_line(instance_id)} is no rental's id: it is a number")
        rental = int(instance_id)
        return self._service.terminate(
            f"{_RENTALS}/terminate", {"rentalId": rental}, lambda answer: id_in(answer, "rentalId") == instance_id
        )

    def balance(self) -> Money | None:
        """The credit, without what the account may overdraw: rentals end when both are used up."""
        return amount_in_cents(self._service.read("/customer/balance"), "balanceCents", "the balance")

    def ensure_ssh_key(self, name: str, public_key: str) -> str:
        """Assumes that the account has the key. An order without any is refused with `NoPublicKey`."""
        return name

    def leftovers(self) -> tuple[Leftover, ...]:
        return ()

    def host_keys(self, instance_id: str) -> tuple[str, ...]:
        return ()


def explain(reply: Reply) -> Failure | None:
    """`{code, message}`. Unknown codes decide nothing."""
    code, message = field(reply.data, "code"), field(reply.data, "message")
    if not isinstance(message, str):
        return None
    if reply.status == 401:
        return Failure("key", str(code or 401), message, "account")
    if not isinstance(code, str):
        return None
    return failure(_FAILURES, code, message)


def _array(raw: Any, where: str) -> list[Any]:
    return members({where: raw}, where, where)


def _offer(raw: Any) -> Offer:
    model = text(raw, "gpuType", "rental-options")
    region = text(raw, "region", "rental-options")
    gpus = integer(raw, "gpuCount", "rental-options")
    network = field(raw, "connectionType") or "ethernet"
    left = field(raw, "totalAvailable")
    nodes = members(raw, "nodes", "rental-options") if field(raw, "nodes") else []
    node = nodes[0] if nodes else None
    enabled = member(raw, "enabled", bool, "rental-options")
    return Offer(
        cloud="hyperbolic",
        id=f"{gpus}x-{model}@{region}/{network}",
        type=model,
        region=region,
        gpus=gpus,
        gpu_model=model.upper(),
        price=price_in_cents(raw, "costPerHourCents", "rental-options"),
        available="no" if not enabled or left == 0 else "unknown" if left is None else "yes",
        vcpus=_whole(field(node, "vcpuCount")),
        memory_gb=_whole(field(node, "ramGb")),
        disk_gb=_whole(field(node, "storageGb")),
        network=str(network),
        detail="" if enabled else "switched off",
    )


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or not 0 <= value < 10**9:
        return None
    return int(value)


def _rental(raw: Any) -> Instance:
    status = text(raw, "status", "a rental")
    made = id_in(raw, "id")
    if made is None:
        raise Unavailable("the provider's answer about a rental has no id")
    term = field(raw, "currentTerm")
    name = field(raw, "label") or field(raw, "name")
    return Instance(
        id=made,
        name=name if isinstance(name, str) else None,
        state=_STATES.get(status.lower(), "unknown"),
        raw_state=one_line(status),
        endpoint=_endpoint(field(raw, "providerData")),
        price=price_in_cents(term, "costPerHourCents", "a rental") if term else None,
        created=when(field(raw, "startedAt") or field(raw, "createdAt")),
        type=str(field(raw, "gpuType") or ""),
        region=str(field(raw, "region") or ""),
    )


def _endpoint(data: Any) -> Endpoint | None:
    """None while the machine has no address."""
    ways: Any = field(data, "sshNetworking")
    if not isinstance(ways, list) or not ways or not id_in(ways[0], "host"):
        return None
    return Endpoint(
        text(ways[0], "host", "sshNetworking"),
        integer(ways[0], "port", "sshNetworking"),
        text(ways[0], "user", "sshNetworking"),
        None,
    )
