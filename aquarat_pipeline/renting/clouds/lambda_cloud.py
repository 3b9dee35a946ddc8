"""Lambda Cloud, API version 1.8.3.

It has no key against double orders, no limit of price or time, and no time of creation. An instance's name is not
unique. Prices are cents per hour of the whole instance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast
from urllib.parse import quote

from aquarat_core.errors import UsageError
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
    field,
    id_in,
    integer,
    listing,
    member,
    members,
    price_in_cents,
    same_key,
    text,
)
from aquarat_pipeline.renting.clouds.service import Failure, Meaning, Service, failure
from aquarat_pipeline.renting.money import Money

ADDRESS = "https://cloud.lambda.ai/api/v1"
CAPABILITIES = Capabilities(
    idempotent=False,
    ends_itself=None,
    poweroff_stops_billing=False,
    user_data=True,
    host_key="user_data",
    name_length=64,
    renames=True,
    tags=True,
    balance=False,
    billing_starts="asked",
    billing_step_seconds=60,
    settle_seconds=300,
    not_before_seconds=0,
    rate=Rate(every=1.0, rent_every=12.0),
)
_STATES: Mapping[str, State] = {
    "booting": "pending",
    "active": "running",
    "unhealthy": "unwell",
    "terminating": "ending",
    "terminated": "ended",
    "preempted": "ended",
}
_FAILURES: Mapping[str, tuple[Meaning, Scope]] = {
    "global/invalid-api-key": ("key", "account"),
    "global/account-inactive": ("key", "account"),
    "global/invalid-address": ("key", "account"),
    "global/invalid-parameters": ("refused", "offer"),
    "global/quota-exceeded": ("refused", "account"),
    "global/duplicate": ("refused", "account"),
    "global/object-does-not-exist": ("missing", "offer"),
    "instance-operations/launch/insufficient-capacity": ("capacity", "offer"),
    "instance-operations/launch/file-system-in-wrong-region": ("refused", "region"),
    "instance-operations/launch/file-systems-not-supported": ("refused", "region"),
}


def connect(account: Account, key: str, surroundings: Surroundings) -> Cloud:
    """Raises `UsageError` for an option that there is not."""
    way = account.options.get("host_key", CAPABILITIES.host_key)
    if account.options.keys() - {"host_key"} or (way != "user_data" and way != "first_use"):
        raise UsageError(f"{account.name}: the only option is host_key: user_data or first_use (docs/clouds.md)")
    client = JsonClient(account.address or ADDRESS, key, surroundings.limits)
    service = Service(account.name, "lambda", client, CAPABILITIES.rate, surroundings, explain)
    return LambdaCloud(account.name, service, replace(CAPABILITIES, host_key=way))


class LambdaCloud:
    def __init__(self, account: str, service: Service, capabilities: Capabilities = CAPABILITIES) -> None:
        self.account = account
        self.capabilities = capabilities
        self._service = service

    def offers(self) -> tuple[Offer, ...]:
        """One for each type and region that has capacity, and one without a region for a type that is sold out."""
        types = member(self._service.read("/instance-types", "offers"), "data", dict, "instance-types")
        return tuple(offer for entry in types.values() for offer in _offers(entry))

    def rent(self, offer: Offer, order: Order) -> Instance | Granted:
        body: dict[str, object] = {
            "region_name": offer.region,
            "instance_type_name": offer.type,
            "ssh_key_names": [order.ssh_key_name],
            "name": order.name,
            "hostname": order.name,
            "tags": [{"key": key, "value": value} for key, value in order.tags.items()],
        }
        if order.image is not None:
            body["image"] = {"family": order.image}
        if order.user_data is not None:
            body["user_data"] = order.user_data
        return Granted(self._service.rent("/instance-operations/launch", body, _launched)[0])

    def list(self) -> Listing:
        at = self._service.now()
        entries = members(self._service.read("/instances"), "data", "instances")
        return listing(entries, _instance, at, self._service.clock_ahead)

    def get(self, instance_id: str) -> Instance | None:
        found = self._service.find(f"/instances/{quote(instance_id, safe='')}")
        return None if found is None else _instance(member(found, "data", dict, "an instance"))

    def terminate(self, instance_id: str) -> Termination:
        def ends_it(answer: Any) -> bool:
            try:
                ended = members(member(answer, "data", dict, "terminate"), "terminated_instances", "terminate")
            except Unavailable:
                return False
            return any(id_in(one, "id") == instance_id for one in ended)

        return self._service.terminate("/instance-operations/terminate", {"instance_ids": [instance_id]}, ends_it)

    def balance(self) -> Money | None:
        return None

    def ensure_ssh_key(self, name: str, public_key: str) -> str:
        taken: set[str] = set()
        for key in members(self._service.read("/ssh-keys"), "data", "ssh-keys"):
            if same_key(text(key, "public_key", "ssh-keys"), public_key):
                return text(key, "name", "ssh-keys")
            taken.add(text(key, "name", "ssh-keys"))
        # Somebody else's key may have this name: a name of its own, since names may be ambiguous in orders.
        free = next(new for new in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if new not in taken)
        made = self._service.change("/ssh-keys", {"name": free, "public_key": public_key})
        return text(member(made, "data", dict, "ssh-keys"), "name", "ssh-keys")

    def leftovers(self) -> tuple[Leftover, ...]:
        """Filesystems, which are billed by what is in them."""
        return tuple(map(_filesystem, members(self._service.read("/file-systems"), "data", "file-systems")))

    def host_keys(self, instance_id: str) -> tuple[str, ...]:
        return ()


def explain(reply: Reply) -> Failure | None:
    """Lambda's form of an error. Unknown codes, and those of its own providers, decide nothing."""
    error = field(reply.data, "error")
    code = field(error, "code")
    if not isinstance(code, str):
        return None
    return failure(_FAILURES, code, str(field(error, "message") or ""))


def _launched(answer: Any) -> str | None:
    ids = field(field(answer, "data"), "instance_ids")
    first = cast("list[Any]", ids)[0] if isinstance(ids, list) and ids else None
    return first if isinstance(first, str) and first else None


def _offers(entry: Any) -> list[Offer]:
    kind = member(entry, "instance_type", dict, "instance-types")
    name = text(kind, "name", "instance-types")
    specs = member(kind, "specs", dict, "instance-types")
    description = text(kind, "gpu_description", "instance-types")
    model = one_line(re.sub(r"\s*\(.*\)$", "", description))
    memory = re.search(r"\((\d+) GB", description)

    def offer(region: str, available: bool) -> Offer:
        return Offer(
            cloud="lambda",
            id=f"{name}@{region}",
            type=name,
            region=region,
            gpus=integer(specs, "gpus", "instance-types"),
            gpu_model=model,
            price=price_in_cents(kind, "price_cents_per_hour", "instance-types"),
            available="yes" if available else "no",
            gpu_memory_gb=int(memory[1]) if memory else None,
            vcpus=integer(specs, "vcpus", "instance-types"),
            memory_gb=integer(specs, "memory_gib", "instance-types"),
            disk_gb=integer(specs, "storage_gib", "instance-types"),
            # The API tells an architecture of images only.
            arch="arm64" if "GH200" in description or "gh200" in name else "x86_64",
            detail="" if available else "sold out in all regions",
        )

    regions = members(entry, "regions_with_capacity_available", "instance-types")
    return [offer(text(region, "name", "regions"), True) for region in regions] or [offer("", False)]


def _filesystem(raw: Any) -> Leftover:
    region = text(member(raw, "region", dict, "file-systems"), "name", "file-systems")
    in_use = member(raw, "is_in_use", bool, "file-systems")
    return Leftover("filesystem", text(raw, "id", "file-systems"), text(raw, "name", "file-systems"), region, in_use)


def _instance(raw: Any) -> Instance:
    """Leaves out `jupyter_token` and `jupyter_url`, with which anyone can use the instance's shell."""
    status = text(raw, "status", "an instance")
    kind = member(raw, "instance_type", dict, "an instance")
    address = field(raw, "ip") or None
    private = field(raw, "private_ip") or None
    name = field(raw, "name")
    return Instance(
        id=text(raw, "id", "an instance"),
        name=name if isinstance(name, str) else None,
        state=_STATES.get(status, "unknown"),
        raw_state=one_line(status),
        endpoint=Endpoint(str(address), 22, "ubuntu", str(private) if private else None) if address else None,
        price=price_in_cents(kind, "price_cents_per_hour", "an instance"),
        created=None,
        type=text(kind, "name", "an instance"),
        region=text(member(raw, "region", dict, "an instance"), "name", "an instance"),
        ssh_key_names=tuple(str(one) for one in members(raw, "ssh_key_names", "an instance")),
    )
