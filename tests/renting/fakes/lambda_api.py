"""A fake of Lambda Cloud, API 1.8.3, from its published description."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from tests.renting.fakes import lambda_schemas as schemas
from tests.renting.fakes.machines import MICROS_PER_CENT, Machine
from tests.renting.fakes.schemas import Schema, checked, problem
from tests.renting.fakes.script import Effect, Verb
from tests.renting.fakes.server import KEY, Act, Answer, FakeCloud, Request

JUPYTER = "jupyter-canary-77f0"
REGIONS = {"us-east-1": "Virginia, USA", "us-west-1": "California, USA", "europe-central-1": "Germany"}
CATALOG = {
    # type: (description of the GPU, cents, vCPUs, GiB, GiB of disk, GPUs, regions with capacity)
    "gpu_1x_a10": ("A10 (24 GB PCIe)", 129, 30, 200, 1400, 1, ["us-east-1", "us-west-1"]),
    "gpu_1x_rtx6000": ("RTX 6000 (24 GB)", 69, 14, 46, 512, 1, ["us-east-1"]),
    "gpu_1x_gh200": ("GH200 (96 GB)", 229, 64, 432, 4096, 1, ["us-east-1"]),
    "gpu_8x_h100_sxm5": ("H100 (80 GB SXM5)", 3192, 208, 1800, 22000, 8, ["us-east-1"]),
    "gpu_8x_a100_80gb_sxm4": ("A100 (80 GB SXM4)", 2232, 240, 1800, 19500, 8, []),
    "cpu_4x_general": ("N/A", 20, 4, 16, 512, 0, ["us-east-1"]),
}
_STATES = {"booting": "booting", "running": "active", "ending": "terminating", "ended": "terminated"}


class FakeLambda(FakeCloud):
    prefix = "/api/v1"

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, rent_every=12.0, **named)
        self.capacity = {name: list(row[6]) for name, row in CATALOG.items()}
        self.cents = {name: row[1] for name, row in CATALOG.items()}
        self.granted_cents: dict[str, int] = {}
        """Prices that instances get, where they differ from those of the offers."""
        self.ssh_keys: list[dict[str, str]] = []
        self.preempted: set[str] = set()
        self.filesystems: list[dict[str, Any]] = []

    def route(self, request: Request) -> tuple[Verb, Act] | None:
        match request.method, request.path.removeprefix(self.prefix):
            case "GET", "/instance-types":
                return "offers", self._types
            case "GET", "/instances":
                return "list", self._list
            case "GET", path if found := re.fullmatch(r"/instances/([^/]+)", path):
                return "get", lambda: self._get(found[1])
            case "POST", "/instance-operations/launch":
                return "rent", lambda: self._launch(request.body)
            case "POST", "/instance-operations/terminate":
                return "terminate", lambda: self._terminate(request.body)
            case "GET", "/file-systems":
                return "leftovers", lambda: self._answer(schemas.FileSystems, self.filesystems)
            case "GET", "/ssh-keys":
                return "keys", lambda: self._answer(schemas.Keys, self.ssh_keys)
            case "POST", "/ssh-keys":
                return "keys", lambda: self._add_key(request.body)
            case _:
                return None

    def error(self, status: int, code: str, message: str = "as scripted") -> Answer:
        return Answer(status, {"error": {"code": code, "message": message, "suggestion": "none"}})

    def fault(self, effect: Effect, verb: Verb) -> Answer:
        match effect:
            case "401":
                return self.error(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.")
            case "inactive":
                return self.error(403, "global/account-inactive", "Your account is inactive.")
            case "quota":
                return self.error(400, "global/quota-exceeded", "Quota exceeded.")
            case "no capacity":
                return self.error(400, "instance-operations/launch/insufficient-capacity", "Not enough capacity.")
            case "unknown code":
                return self.error(400, "global/unknown", "?")
            case "provider error":
                return self.error(400, "provider/internal-unavailable", "Provider unavailable")
            case "without effect" if verb == "terminate":
                return self._answer(schemas.Terminated, {"terminated_instances": self._records(self._listed())})
            case "ghost" if verb == "rent":
                return self._answer(schemas.Launched, {"instance_ids": ["f" * 32]})
            case _:
                raise AssertionError(f"{effect} of {verb} is not known here")

    def mangle(self, effect: Effect, answer: Answer) -> Answer:
        data = answer.data["data"]
        match effect:
            case "then no id":
                data = {"instance_ids": []}
            case "then 500 with id":
                return Answer(500, answer.data)
            case "then 400 with id":
                wrong = self.error(400, "global/invalid-parameters").data
                return Answer(400, {**wrong, **answer.data})
            case "then 200 with errors":
                return Answer(200, {**self.error(200, "global/unknown").data, **answer.data})
            case "empty":
                data = []
            case "price in dollars" if isinstance(data, dict) and "gpu_1x_a10" in data:
                data = {name: {**one, "instance_type": _in_dollars(one["instance_type"])} for name, one in data.items()}
            case "not a list":
                data = {"instances": data}
            case "first half":
                data = data[: len(data) // 2]
            case _:
                data = [_strange(effect, one) for one in data] if isinstance(data, list) else _strange(effect, data)
        return replace(answer, data={"data": data})

    def order(
        self,
        name: str | None,
        type: str = "gpu_1x_a10",
        account: str = KEY,
        key: str = "",
        region: str = "us-east-1",
        asked: dict[str, Any] | None = None,
    ) -> Machine:
        """A new instance; without `asked`, one that was made without this API, such as somebody else's."""
        cents = self.granted_cents.get(type, self.cents[type])
        return self.add(
            Machine(
                self.new_id(), name, type, region, cents * MICROS_PER_CENT, self.clock.now(), self.timing, account,
                key, CATALOG[type][5], asked or {},
                next((one["public_key"] for one in self.ssh_keys if one["name"] == key), ""),
                (asked or {}).get("user_data"),
            )
        )  # fmt: skip

    def add_filesystem(self, name: str, in_use: bool = False) -> None:
        who = {"id": "u", "email": "me@example.org", "status": "active"}
        self.filesystems.append(
            {"id": self.new_id(), "name": name, "mount_point": f"/lambda/nfs/{name}", "created": "2026-11-01T00:00:00Z",
             "created_by": who, "is_in_use": in_use, "region": _region("us-east-1"), "bytes_used": 10**9}
        )  # fmt: skip

    def _answer(self, schema: type[Schema], data: Any) -> Answer:
        return Answer(200, checked(schema, {"data": data}))

    def _invalid(self, what: str) -> Answer:
        self.complain(what)
        return self.error(400, "global/invalid-parameters", what)

    def _types(self) -> Answer:
        item = {name: {"instance_type": self._type(name, self.cents[name]),
                       "regions_with_capacity_available": [_region(one) for one in self.capacity[name]]}
                for name in CATALOG}  # fmt: skip
        return self._answer(schemas.Types, item)

    def _type(self, name: str, cents: int) -> dict[str, Any]:
        gpu, _, vcpus, memory, disk, gpus, _ = CATALOG[name]
        specs = {"vcpus": vcpus, "memory_gib": memory, "storage_gib": disk, "gpus": gpus}
        return {"name": name, "description": f"{gpus}x {gpu}", "gpu_description": gpu, "price_cents_per_hour": cents,
                "specs": specs}  # fmt: skip

    def _listed(self) -> list[Machine]:
        now = self.clock.now()
        return [one for one in self.machines if one.account == KEY and one.listed(now)]

    def _list(self) -> Answer:
        return self._answer(schemas.Instances, self._records(self._listed()))

    def _get(self, wanted: str) -> Answer:
        found = self._own(wanted)
        if found is None or not found.found(self.clock.now()):
            return self.error(404, "global/object-does-not-exist", "Specified instance does not exist.")
        return self._answer(schemas.OneInstance, self._record(found))

    def _own(self, wanted: str) -> Machine | None:
        return next((one for one in self.machines if one.id == wanted and one.account == KEY), None)

    def _launch(self, body: Any) -> Answer:
        if wrong := problem(schemas.Launch, body):
            return self._invalid(wrong)
        kind, region, key = body["instance_type_name"], body["region_name"], body["ssh_key_names"][0]
        if region not in REGIONS:
            return self._invalid(f"unknown region {region}")
        if kind not in CATALOG or key not in [one["name"] for one in self.ssh_keys]:
            return self.error(404, "global/object-does-not-exist", f"{kind} or {key} does not exist")
        if region not in self.capacity[kind]:
            return self.fault("no capacity", "rent")
        machine = self.order(body.get("name"), kind, key=key, region=region, asked=body)
        return self._answer(schemas.Launched, {"instance_ids": [machine.id]})

    def _terminate(self, body: Any) -> Answer:
        if wrong := problem(schemas.Terminate, body):
            return self._invalid(wrong)
        now = self.clock.now()
        found = [self._own(one) for one in body["instance_ids"]]
        machines = [one for one in found if one is not None and one.found(now)]
        if not machines or len(machines) != len(found):
            return self.error(404, "global/object-does-not-exist", "Specified instance does not exist.")
        if any(now < one.ordered + one.timing.earliest_end for one in machines):
            return self.error(400, "global/invalid-parameters", "the instance cannot be terminated yet")
        for machine in machines:
            self.end(machine)
        return self._answer(schemas.Terminated, {"terminated_instances": self._records(machines)})

    def _add_key(self, body: Any) -> Answer:
        if wrong := problem(schemas.AddKey, body):
            return self._invalid(wrong)
        if any(one["name"] == body["name"] for one in self.ssh_keys):
            return self.error(400, "global/duplicate", "an ssh key of this name exists")
        self.ssh_keys.append({"id": self.new_id(), "name": body["name"], "public_key": body["public_key"]})
        return self._answer(schemas.OneKey, self.ssh_keys[-1])

    def _records(self, machines: list[Machine]) -> list[dict[str, Any]]:
        return [self._record(one) for one in machines]

    def _record(self, machine: Machine) -> dict[str, Any]:
        now = self.clock.now()
        state = machine.state(now)
        status = "unhealthy" if machine.unwell and state == "running" else _STATES.get(state, "terminated")
        status = "preempted" if machine.id in self.preempted else status
        address = machine.address_at(now)
        terminate = {"available": state in ("booting", "running")}
        if state == "ending":
            terminate |= {"reason_code": "vm-is-terminating"}
        record: dict[str, Any] = {
            "id": machine.id,
            "status": status,
            "ssh_key_names": [machine.ssh_key] if machine.ssh_key else [],
            "file_system_names": [],
            "region": _region(machine.region),
            "instance_type": self._type(machine.type, machine.micros_per_hour // MICROS_PER_CENT),
            "actions": {name: {"available": False} for name in ("migrate", "rebuild", "restart", "cold_reboot")}
            | {"terminate": terminate},
            "is_reserved": False,
        }
        if machine.name is not None:
            record |= {"name": machine.name}
        if machine.asked.get("tags"):
            record |= {"tags": machine.asked["tags"]}
        if address is not None:
            record |= {"ip": address.host, "private_ip": address.private_host, "jupyter_token": JUPYTER,
                       "jupyter_url": f"https://jupyter.example/?token={JUPYTER}"}  # fmt: skip
        return record


def _region(name: str) -> dict[str, str]:
    return {"name": name, "description": REGIONS[name]}


def _strange(effect: Effect, record: dict[str, Any]) -> dict[str, Any]:
    match effect:
        case "new status":
            return {**record, "status": "hibernated"}
        case "extra fields":
            return {**record, "carbon": {"grams": 5}, "status_reason": None}
        case "empty ip":
            return {**record, "ip": "", "private_ip": None}
        case "no ip":
            return {key: value for key, value in record.items() if key not in ("ip", "private_ip")}
        case "no name":
            return {**record, "name": None}
        case "a record without status":
            return {key: value for key, value in record.items() if key != "status"}
        case "a record without id and name":
            return {key: value for key, value in record.items() if key not in ("id", "name")}
        case "price in dollars":
            return {**record, "instance_type": _in_dollars(record["instance_type"])}
        case _:
            raise AssertionError(f"{effect} is not known here")


def _in_dollars(kind: dict[str, Any]) -> dict[str, Any]:
    return {**kind, "price_cents_per_hour": kind["price_cents_per_hour"] / 100}
