"""A fake of Compute Engine's REST API: names are unique in a zone, a request id is obeyed once, and an instance ends by
itself after `maxRunDuration`."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.renting.fakes.compute_schemas import Insert
from tests.renting.fakes.machines import MICROS_PER_CENT, Machine
from tests.renting.fakes.schemas import problem
from tests.renting.fakes.script import Effect, Verb
from tests.renting.fakes.server import KEY, Act, Answer, FakeCloud, Request

PROJECT = "our-project"
ZONES = ("us-central1-a", "europe-west4-b")
CATALOG = {
    # machine type: (accelerator, how many, vCPUs, MB of memory, cents an hour)
    "a3-highgpu-8g": ("nvidia-h100-80gb", 8, 208, 1_916_928, 8825),
    "g2-standard-4": ("nvidia-l4", 1, 4, 16_384, 71),
    "a2-highgpu-1g": ("nvidia-tesla-a100", 1, 12, 87_040, 367),
    "n2-standard-4": (None, 0, 4, 16_384, 19),
}
_STATES = {"booting": "STAGING", "running": "RUNNING", "ending": "STOPPING"}
_PLACE = rf"/projects/{PROJECT}/zones/([^/]+)/instances/([^/]+)"
_QUERIES: dict[Verb, set[str]] = {
    "rent": {"requestId"}, "attributes": {"queryPath"}, "list": {"pageToken"},
    "terminate": {"requestId"}, "offers": {"pageToken"},
}  # fmt: skip


class FakeComputeEngine(FakeCloud):
    prefix = "/compute/v1"
    step = 1

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, every=0.0, **named)
        self.host_keys: dict[str, list[tuple[str, str]]] = {}
        """By name of instance: what the guest has published."""
        self.unreachable: list[str] = []
        self.disks: list[tuple[str, str, list[str]]] = []
        """Name, zone, and the instances that use it."""
        self.pages_of: int = 500
        self.request_ids: set[str] = set()
        self.quota_left = 100

    def authorized(self, request: Request) -> bool:
        return True  # tests speak with it without credentials

    def route(self, request: Request) -> tuple[Verb, Act] | None:
        found = self._route(request)
        if found is None:
            return None
        verb = found[0]
        if odd := set(request.query) - _QUERIES.get(verb, set()):
            self.complain(f"unknown parameters {odd} of {request.path}")
        return found

    def _route(self, request: Request) -> tuple[Verb, Act] | None:
        path = request.path.removeprefix(self.prefix)
        if request.method == "GET" and path == f"/projects/{PROJECT}/aggregated/instances":
            return "list", lambda: self._list(request.query)
        if request.method == "GET" and path == f"/projects/{PROJECT}/aggregated/disks":
            return "leftovers", self._disks
        if found := re.fullmatch(rf"/projects/{PROJECT}/zones/([^/]+)/machineTypes", path):
            return ("offers", lambda: self._machine_types(found[1])) if request.method == "GET" else None
        if found := re.fullmatch(rf"/projects/{PROJECT}/zones/([^/]+)/instances", path):
            act = lambda: self._insert(found[1], request)  # noqa: E731
            return ("rent", act) if request.method == "POST" else None
        if found := re.fullmatch(f"{_PLACE}/getGuestAttributes", path):
            return "attributes", lambda: self._guest(found[2], request.query)
        if found := re.fullmatch(_PLACE, path):
            acts: dict[str, tuple[Verb, Act]] = {
                "GET": ("get", lambda: self._get(found[1], found[2])),
                "DELETE": ("terminate", lambda: self._delete(found[1], found[2])),
            }
            return acts.get(request.method)
        return None

    def error(self, status: int, code: str, message: str = "as scripted") -> Answer:
        told = {"message": message, "domain": "global", "reason": code}
        return Answer(status, {"error": {"code": status, "message": message, "errors": [told]}})

    def fault(self, effect: Effect, verb: Verb) -> Answer:
        match effect:
            case "401":
                return self.error(401, "authError", "Invalid Credentials")
            case "inactive":
                return self.error(403, "accessNotConfigured", "Compute Engine API has not been used in this project")
            case "quota":
                return self.error(403, "quotaExceeded", "Quota 'GPUS_ALL_REGIONS' exceeded. Limit: 0.0 globally.")
            case "no capacity":
                # Compute Engine tells this in the operation that the order began.
                trouble = {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "The zone does not have enough resources"}
                return Answer(200, self._operation("insert", "x", "DONE") | {"error": {"errors": [trouble]}})
            case "unknown code":
                return Answer(400, {"error": {"code": 400, "message": "?"}})
            case "provider error":
                return self.error(503, "backendError")
            case "without effect":
                return Answer(200, self._operation("delete", "x", "RUNNING"))
            case "ghost":
                return Answer(200, self._operation("insert", "x", "RUNNING"))
            case _:
                raise AssertionError(f"{effect} of {verb} is not known here")

    def mangle(self, effect: Effect, answer: Answer) -> Answer:
        change: dict[str, Any] = {
            "new status": {"status": "HIBERNATED"},
            "extra fields": {"carbon": {"grams": 5}, "fingerprint": "x"},
            "no ip": {"networkInterfaces": []},
            "empty ip": {"networkInterfaces": [{"name": "nic0", "accessConfigs": [{"natIP": ""}]}]},
            "odd time": {"creationTimestamp": "yesterday, about noon"},
        }.get(effect, {})
        match effect:
            case "new status" | "extra fields" | "no ip" | "empty ip" | "odd time":
                scopes = answer.data["items"]
                for scope in scopes.values():
                    for one in scope.get("instances", []):
                        one |= change
                return replace(answer, data={**answer.data, "items": scopes})
            case "empty":
                return replace(answer, data={"kind": "compute#instanceAggregatedList"})
            case _:
                raise AssertionError(f"{effect} is not known here")

    def _machine_types(self, zone: str) -> Answer:
        if zone not in ZONES:
            return self.error(404, "notFound", f"The resource 'projects/{PROJECT}/zones/{zone}' was not found")
        items: list[dict[str, Any]] = []
        for name, (accelerator, count, vcpus, memory, _) in CATALOG.items():
            item: dict[str, Any] = {"kind": "compute#machineType", "name": name, "guestCpus": vcpus, "memoryMb": memory,
                                    "zone": zone, "architecture": "X86_64"}  # fmt: skip
            if accelerator:
                item["accelerators"] = [{"guestAcceleratorType": accelerator, "guestAcceleratorCount": count}]
            items.append(item)
        return Answer(200, {"kind": "compute#machineTypeList", "items": items})

    def _ours(self) -> list[Machine]:
        now = self.clock.now()
        # A deleted instance is gone: nothing of it stays listed.
        return [one for one in self.machines if one.account == KEY and one.state(now) not in ("ended", "absent")]

    def _list(self, query: dict[str, str]) -> Answer:
        now = self.clock.now()
        listed = [one for one in self._ours() if one.listed(now)]
        first = int(query.get("pageToken", "0"))
        items: dict[str, dict[str, Any]] = {f"zones/{zone}": {} for zone in ZONES}
        for machine in listed[first : first + self.pages_of]:
            items[f"zones/{machine.region}"].setdefault("instances", []).append(self._record(machine))
        answer = {"kind": "compute#instanceAggregatedList", "items": items, "unreachables": self.unreachable}
        more = first + self.pages_of
        return Answer(200, {**answer, "nextPageToken": str(more)} if more < len(listed) else answer)

    def _disks(self) -> Answer:
        items: dict[str, dict[str, Any]] = {f"zones/{zone}": {} for zone in ZONES}
        for name, zone, users in self.disks:
            place = f"https://compute.example/projects/{PROJECT}/zones/{zone}"
            disk = {"kind": "compute#disk", "name": name, "zone": place, "users": users, "sizeGb": "200"}
            items[f"zones/{zone}"].setdefault("disks", []).append(disk)
        return Answer(200, {"kind": "compute#diskAggregatedList", "items": items, "unreachables": self.unreachable})

    def _find(self, zone: str, name: str) -> Machine | None:
        found = (one for one in self._ours() if (one.region, one.name) == (zone, name))
        return next((one for one in found if one.found(self.clock.now())), None)

    def _missing(self, zone: str, name: str) -> Answer:
        return self.error(404, "notFound", f"The resource 'zones/{zone}/instances/{name}' was not found")

    def _get(self, zone: str, name: str) -> Answer:
        found = self._find(zone, name)
        return Answer(200, self._record(found)) if found else self._missing(zone, name)

    def _insert(self, zone: str, request: Request) -> Answer:
        if wrong := problem(Insert, request.body):
            self.complain(wrong)
            return self.error(400, "invalid", wrong)
        body = request.body
        request_id = request.query.get("requestId", "")
        if not _is_uuid(request_id):
            self.complain(f"no request id: {request_id!r}")
        if request_id in self.request_ids:
            return Answer(200, self._operation("insert", body["name"], "RUNNING"))
        if any((one.region, one.name) == (zone, body["name"]) for one in self._ours()):
            return self.error(409, "alreadyExists", f"The resource {body['name']!r} already exists")
        kind = body["machineType"].rpartition("/")[2]
        if zone not in ZONES or kind not in CATALOG:
            return self.error(400, "invalid", f"Invalid value for field 'resource.machineType': {kind!r}")
        self.request_ids.add(request_id)
        machine = self.order(body["name"], kind, zone, asked=body)
        scheduling = body.get("scheduling") or {}
        if "maxRunDuration" in scheduling and scheduling.get("instanceTerminationAction") == "DELETE":
            machine.ends_itself = self.clock.now() + int(scheduling["maxRunDuration"]["seconds"])
        return Answer(200, self._operation("insert", body["name"], "RUNNING"))

    def order(
        self,
        name: str,
        kind: str = "g2-standard-4",
        zone: str = ZONES[0],
        account: str = KEY,
        asked: dict[str, Any] | None = None,
    ) -> Machine:
        """A new instance; without `asked`, one that was made without this API."""
        price = CATALOG[kind][4] * MICROS_PER_CENT
        gpus = CATALOG[kind][1]
        return self.add(
            Machine(
                self.new_id(), name, kind, zone, price, self.clock.now(), self.timing, account, gpus=gpus,
                asked=asked or {}, authorized=_metadata(asked, "ssh-keys").partition(":")[2],
                user_data=_metadata(asked, "user-data") or None,
            )
        )  # fmt: skip

    def _delete(self, zone: str, name: str) -> Answer:
        found = self._find(zone, name)
        if found is None:
            return self._missing(zone, name)
        if self.clock.now() < found.ordered + found.timing.earliest_end:
            return self.error(400, "resourceNotReady", "The resource cannot be deleted yet")
        self.end(found)
        return Answer(200, self._operation("delete", name, "RUNNING"))

    def _guest(self, name: str, query: dict[str, str]) -> Answer:
        published = self.host_keys.get(name)
        if not published:
            return self.error(404, "notFound", "The resource 'hostkeys/' of type 'Guest Attribute' was not found.")
        items = [{"namespace": "hostkeys", "key": kind, "value": key} for kind, key in published]
        return Answer(200, {"kind": "compute#guestAttributes", "queryPath": query.get("queryPath"),
                            "queryValue": {"items": items}})  # fmt: skip

    def _operation(self, kind: str, name: str, status: str) -> dict[str, Any]:
        return {"kind": "compute#operation", "id": "5", "name": "operation-1", "operationType": kind, "status": status,
                "targetLink": f"https://compute.example/{name}", "progress": 0}  # fmt: skip

    def _record(self, machine: Machine) -> dict[str, Any]:
        now = self.clock.now()
        address = machine.address_at(now)
        interface: dict[str, Any] = {"name": "nic0", "network": "global/networks/default"}
        if address is not None:
            interface |= {"networkIP": address.private_host,
                          "accessConfigs": [{"name": "External NAT", "natIP": address.host}]}  # fmt: skip
        base = f"https://compute.example/projects/{PROJECT}/zones/{machine.region}"
        return {
            "kind": "compute#instance",
            "id": str(int(machine.id, 16)),
            "name": machine.name,
            "status": "TERMINATED" if machine.unwell else _STATES[machine.state(now)],
            "zone": base,
            "machineType": f"{base}/machineTypes/{machine.type}",
            "creationTimestamp": datetime.fromtimestamp(machine.ordered, UTC).isoformat(timespec="milliseconds"),
            "networkInterfaces": [interface],
        }


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text and int(uuid.UUID(text)) != 0
    except ValueError:
        return False


def _metadata(asked: dict[str, Any] | None, name: str) -> str:
    items = ((asked or {}).get("metadata") or {}).get("items") or []
    return next((item["value"] for item in items if item["key"] == name), "")
