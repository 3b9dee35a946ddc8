"""Google Compute Engine, through `google-cloud-compute`.

Orders carry a request id and a name that is unique, so that a repeated order makes no second instance; an instance has
a time after which Google deletes it; and guests publish their ssh keys. Compute Engine tells neither prices, which
depend on contracts, nor what is in stock: prices are the account's option `prices`.

Options of an account: `project`, `zones` (a list), `prices` (dollars per hour by machine type), and if wanted `image`
(default: Ubuntu 24.04 with NVIDIA's driver), `disk_gb`, `network`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, cast

from aquarat_core.errors import UsageError
from aquarat_pipeline.renting.clouds.cloud import Account, Cloud, Surroundings
from aquarat_pipeline.renting.clouds.gcp_calls import Calls, zone_of
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
    State,
    Termination,
)
from aquarat_pipeline.renting.clouds.reading import when
from aquarat_pipeline.renting.money import Money

CAPABILITIES = Capabilities(
    idempotent=True,
    ends_itself=(30, 120 * 24 * 3600),
    poweroff_stops_billing=False,  # the disk goes on
    user_data=True,
    host_key="guest_attributes",
    name_length=63,
    renames=False,
    tags=True,
    balance=False,
    billing_starts="asked",
    billing_step_seconds=1,
    settle_seconds=120,
    not_before_seconds=0,
    rate=Rate(every=0.1, rent_every=1.0),
)
USER = "ubuntu"
_IMAGE = "projects/ubuntu-os-accelerator-images/global/images/family/ubuntu-accelerator-2404-amd64-with-nvidia-580"
_DISK_GB = 200
_REQUESTS = uuid.UUID("6f0d51a4-6f55-4b53-9a63-0a4f2f1e3f5b")
_STATES: Mapping[str, State] = {
    "PENDING": "pending",
    "PROVISIONING": "pending",
    "STAGING": "pending",
    "RUNNING": "running",
    "REPAIRING": "unwell",
    # A stopped instance is still there, and its disk is billed: it has ended when it is deleted.
    "TERMINATED": "unwell",
    "STOPPED": "unwell",
    "SUSPENDED": "unwell",
    "PENDING_STOP": "ending",
    "STOPPING": "ending",
    "SUSPENDING": "ending",
    "DEPROVISIONING": "ending",
}


def connect(account: Account, key: str, surroundings: Surroundings) -> Cloud:
    """Without a key: credentials are those of the environment, as for buckets. Raises `UsageError` for options."""
    options = dict(account.options)
    project, zones, prices = options.get("project"), options.get("zones"), options.get("prices")
    if not isinstance(project, str) or not isinstance(zones, list) or not isinstance(prices, dict):
        raise UsageError(
            f"{account.name}: Compute Engine needs the options project, zones, and prices per machine type"
        )
    try:
        per_hour = {str(name): Money.dollars(str(price)) for name, price in cast("dict[Any, Any]", prices).items()}
    except ValueError as e:
        raise UsageError(f"{account.name}: prices: {e}") from None
    calls = Calls(account.name, project, account.address, CAPABILITIES.rate, surroundings)
    return ComputeEngine(account.name, calls, [str(zone) for zone in cast("list[Any]", zones)], per_hour, options)


class ComputeEngine:
    capabilities = CAPABILITIES

    def __init__(
        self, account: str, calls: Calls, zones: list[str], prices: Mapping[str, Money], options: Mapping[str, object]
    ) -> None:
        self.account = account
        self._calls = calls
        self._zones = zones
        self._prices = prices
        self._options = options

    def offers(self) -> tuple[Offer, ...]:
        """The machine types that come with GPUs and have a price, in each of the account's zones."""
        return tuple(
            _offer(kind, zone, self._prices[kind.name])
            for zone in self._zones
            for kind in self._calls.machine_types(zone)
            if kind.name in self._prices and kind.accelerators
        )

    def rent(self, offer: Offer, order: Order) -> Instance | Granted:
        request = str(uuid.uuid5(_REQUESTS, order.name))
        self._calls.insert(offer.region, self._resource(offer, order), request)
        return Granted(f"{offer.region}/{order.name}")

    def list(self) -> Listing:
        at = self._calls.now()
        found = tuple(map(_instance, self._calls.instances()))
        return Listing(found, (), True, at, self._calls.clock_ahead)

    def get(self, instance_id: str) -> Instance | None:
        found = self._calls.instance(*_place(instance_id))
        return None if found is None else _instance(found)

    def terminate(self, instance_id: str) -> Termination:
        return self._calls.delete(*_place(instance_id))

    def balance(self) -> Money | None:
        return None

    def ensure_ssh_key(self, name: str, public_key: str) -> str:
        """Keys are part of an order."""
        return name

    def leftovers(self) -> tuple[Leftover, ...]:
        """Disks. Those of our instances are deleted with them."""
        return tuple(
            Leftover("disk", f"{zone_of(disk.zone)}/{disk.name}", disk.name, zone_of(disk.zone), bool(disk.users))
            for disk in self._calls.disks()
        )

    def host_keys(self, instance_id: str) -> tuple[str, ...]:
        return tuple(f"{kind} {key}" for kind, key in self._calls.guest_attributes(*_place(instance_id), "hostkeys/"))

    def _resource(self, offer: Offer, order: Order) -> dict[str, Any]:
        lowest, highest = 30, 120 * 24 * 3600
        seconds = min(max(order.end - int(self._calls.now()), lowest), highest)
        metadata = {
            "ssh-keys": f"{USER}:{order.ssh_public_key}",
            "block-project-ssh-keys": "TRUE",
            "enable-oslogin": "FALSE",
            "enable-guest-attributes": "TRUE",
        }
        if order.user_data is not None:
            metadata["user-data"] = order.user_data
        disk = {
            "source_image": order.image or str(self._options.get("image") or _IMAGE),
            "disk_size_gb": int(str(self._options.get("disk_gb") or _DISK_GB)),
        }
        return {
            "name": order.name,
            "machine_type": f"zones/{offer.region}/machineTypes/{offer.type}",
            "labels": dict(order.tags),
            "disks": [{"boot": True, "auto_delete": True, "initialize_params": disk}],
            "network_interfaces": [
                {
                    "network": str(self._options.get("network") or "global/networks/default"),
                    "access_configs": [{"name": "External NAT", "type_": "ONE_TO_ONE_NAT"}],
                }
            ],
            "metadata": {"items": [{"key": key, "value": value} for key, value in metadata.items()]},
            # No service account: the host gets no credentials of the project.
            "scheduling": {
                "max_run_duration": {"seconds": seconds},
                "instance_termination_action": "DELETE",
                "on_host_maintenance": "TERMINATE",
                "automatic_restart": False,
                "provisioning_model": "STANDARD",
            },
        }


def _place(instance_id: str) -> tuple[str, str]:
    zone, _, name = instance_id.partition("/")
    return zone, name


def _offer(kind: Any, zone: str, price: Money) -> Offer:
    accelerator = kind.accelerators[0]
    described: str = accelerator.guest_accelerator_type
    memory = re.search(r"(\d+)gb", described)
    return Offer(
        cloud="gce",
        id=f"{kind.name}@{zone}",
        type=kind.name,
        region=zone,
        gpus=accelerator.guest_accelerator_count,
        # The driver does not say by which network a GPU's host is connected ("mega").
        gpu_model=re.sub(r"^nvidia-(tesla-)?|(-mega)?-\d+gb.*$", "", described).upper(),
        price=price,
        available="unknown",
        gpu_memory_gb=int(memory[1]) if memory else None,
        vcpus=kind.guest_cpus,
        memory_gb=kind.memory_mb // 1024,
        arch="arm64" if kind.architecture == "ARM64" else "x86_64",
        detail="price from the account's settings",
    )


def _instance(raw: Any) -> Instance:
    zone = zone_of(raw.zone)
    interface = raw.network_interfaces[0] if raw.network_interfaces else None
    outside = interface.access_configs[0].nat_i_p if interface and interface.access_configs else ""
    return Instance(
        id=f"{zone}/{raw.name}",
        name=raw.name,
        state=_STATES.get(raw.status, "unknown"),
        raw_state=raw.status,
        endpoint=Endpoint(outside, 22, USER, interface.network_i_p or None) if interface and outside else None,
        price=None,
        created=when(raw.creation_timestamp),
        type=raw.machine_type.rpartition("/")[2],
        region=zone,
    )
