"""A fake of Hyperbolic's API v2 for on-demand machines, with prepaid credit: at its end everything stops."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.renting.fakes import hyperbolic_schemas as schemas
from tests.renting.fakes.machines import MICROS_PER_CENT, Machine
from tests.renting.fakes.schemas import checked, problem
from tests.renting.fakes.script import Effect, Verb
from tests.renting.fakes.server import KEY, Act, Answer, FakeCloud, Request

RANDOM_NAME = "soft-apricot-ladybug"
CATALOG = [
    # GPU, form factor, GPUs, region, machine, network, cents, enabled, left
    ("h100", "pcie", 1, "ca-east-1", "virtual-machine", "ethernet", 275, True, 4),
    ("h100", "sxm", 1, "us-east-1", "virtual-machine", "ethernet", 319, True, None),
    ("h100", "sxm", 8, "us-east-1", "virtual-machine", "infiniband", 2552, True, 1),
    ("rtx-6000-pro", "pcie", 1, "us-east-3", "virtual-machine", "ethernet", 179, True, 0),
    ("b200", "sxm", 8, "us-east-1", "virtual-machine", "infiniband", 5200, False, 2),
    ("h100", "sxm", 8, "us-east-1", "bare-metal", "infiniband", 2400, True, 1),
]


class FakeHyperbolic(FakeCloud):
    from_running = True
    prefix = "/v2"

    def __init__(self, *args: Any, credit_cents: int = 10_000, **named: Any) -> None:
        super().__init__(*args, **named)
        self.options = [list(row) for row in CATALOG]
        self.credit = credit_cents * MICROS_PER_CENT
        self.has_ssh_key = True
        self.public_key = ""
        """The one that a person has put on the website."""
        self.granted_cents: dict[str, int] = {}
        self.label_length = 64

    def route(self, request: Request) -> tuple[Verb, Act] | None:
        self.settle()
        match request.method, request.path.removeprefix(self.prefix):
            case "GET", "/on-demand/rental-options":
                return "offers", self._options
            case "GET", "/on-demand/virtual-machine-rentals":
                return "list", lambda: Answer(200, self._checked([self._record(one) for one in self._listed()]))
            case "POST", "/on-demand/virtual-machine-rentals":
                return "rent", lambda: self._rent(request.body)
            case "POST", "/on-demand/virtual-machine-rentals/terminate":
                return "terminate", lambda: self._terminate(request.body)
            case "GET", "/customer/balance":
                left = (self.credit - self.bill()) / MICROS_PER_CENT
                balance = {"balanceCents": left, "maxOverdraftCents": 0}
                return "balance", lambda: Answer(200, checked(schemas.Balance, balance))
            case _:
                return None

    def settle(self) -> None:
        """Stops everything at the second in which the credit is used up."""
        now = self.clock.now()
        ours = [one for one in self.machines if one.account == KEY]

        def spent(at: float) -> int:
            return sum(one.bill(at, self.from_running, self.step) for one in ours)

        if spent(now) < self.credit or not any(one.alive(now) for one in ours):
            return
        enough, over = self.started, now
        while over - enough > 1:
            middle = (enough + over) / 2
            enough, over = (middle, over) if spent(middle) < self.credit else (enough, middle)
        for machine in ours:
            if machine.alive(now) and machine.vanished is None:
                machine.vanished = over
                self.fleet.stop(machine)

    def error(self, status: int, code: str, message: str = "as scripted") -> Answer:
        return Answer(status, {"code": code, "message": message})

    def fault(self, effect: Effect, verb: Verb) -> Answer:
        match effect:
            case "401":
                return self.error(401, "Unauthorized", "Invalid API key")
            case "inactive":
                return self.error(401, "Unauthorized", "The organization is suspended")
            case "quota":
                return self.error(400, "InsufficientBalance", "Add credit first")
            case "no capacity":
                return self.error(400, "FailedToCalculateCostPerHour", "The option is gone")
            case "unknown code":
                return self.error(400, "SomethingNew", "?")
            case "provider error":
                return self.error(409, "UpstreamConflict", "?")
            case "without effect" if verb == "terminate":
                return Answer(200, checked(schemas.Terminated, {"message": "Terminated", "rentalId": self._last_asked}))
            case "ghost" if verb == "rent":
                return Answer(200, {"id": 99_999, "status": "Pending"})
            case _:
                raise AssertionError(f"{effect} of {verb} is not known here")

    def mangle(self, effect: Effect, answer: Answer) -> Answer:
        data = answer.data
        match effect:
            case "then no id":
                return replace(answer, data={key: value for key, value in data.items() if key != "id"})
            case "then 500 with id":
                return Answer(500, data)
            case "then 400 with id":
                return Answer(400, {**data, "code": "InsufficientBalance", "message": "?"})
            case "then 200 with errors":
                return Answer(200, {"success": False, "error": "try again", "id": data["id"]})
            case "empty":
                return replace(answer, data=[])
            case "not a list":
                return replace(answer, data={"rentals": data})
            case "first half":
                return replace(answer, data=data[: len(data) // 2])
            case _:
                strange = [_strange(effect, one) for one in data] if isinstance(data, list) else _strange(effect, data)
                return replace(answer, data=strange)

    def answer(self, request: Request) -> Answer:
        self._last_asked = (request.body or {}).get("rentalId", 0) if isinstance(request.body, dict) else 0
        return super().answer(request)

    def new_id(self) -> str:
        self._count += 1
        return str(41_000 + self._count)

    def order(self, name: str | None, row: int = 1, account: str = KEY, asked: dict[str, Any] | None = None) -> Machine:
        """A new rental; without `asked`, one that was made without this API."""
        model, _, gpus, region, _, _, cents, *_ = self.options[row]
        cents = self.granted_cents.get(model, cents)
        return self.add(
            Machine(
                self.new_id(), name, model, region, cents * MICROS_PER_CENT, self.clock.now(), self.timing, account,
                gpus=gpus, asked=asked or {}, authorized=self.public_key,
            )
        )  # fmt: skip

    def _invalid(self, what: str) -> Answer:
        self.complain(what)
        return self.error(422, "ValidationError", what)

    def _options(self) -> Answer:
        found: list[dict[str, Any]] = []
        for model, form, gpus, region, machine, network, cents, enabled, left in self.options:
            node = {"cpuModel": "EPYC 9354", "vcpuCount": 26 * gpus, "ramGb": 200 * gpus, "storageGb": 1000,
                    "gpuCount": gpus}  # fmt: skip
            option = {"gpuType": model, "gpuFormFactor": form, "gpuCount": gpus, "region": region,
                      "machineType": machine, "connectionType": network, "costPerHourCents": cents,
                      "enabled": enabled, "nodes": [node]}  # fmt: skip
            found.append(option if left is None else {**option, "totalAvailable": left})
        return Answer(200, checked(schemas.Options, {"data": found})["data"])

    def _listed(self) -> list[Machine]:
        now = self.clock.now()
        return [one for one in self.machines
                if one.account == KEY and one.listed(now) and one.state(now) != "ended"]  # fmt: skip

    def _checked(self, rentals: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return checked(schemas.Rentals, {"data": rentals})["data"]

    def _rent(self, body: Any) -> Answer:
        if wrong := problem(schemas.Rent, body):
            return self._invalid(wrong)
        if not self.has_ssh_key:
            return self.error(400, "NoPublicKey", "Add an SSH public key first")
        wanted = (body["gpuType"], body["gpuCount"], body["region"], body["networkType"])
        for number, (model, _, gpus, region, machine, network, _, enabled, left) in enumerate(self.options):
            if (model, gpus, region, network) == wanted and machine == "virtual-machine":
                if not enabled:
                    return self.error(400, "RegionDisabled", "?")
                if left == 0:
                    return self.fault("no capacity", "rent")
                made = self.order((body.get("label") or RANDOM_NAME)[: self.label_length], number, asked=body)
                return Answer(200, self._checked([self._record(made)])[0])
        return self.fault("no capacity", "rent")

    def _terminate(self, body: Any) -> Answer:
        if wrong := problem(schemas.Terminate, body):
            return self._invalid(wrong)
        wanted, now = str(body["rentalId"]), self.clock.now()
        found = next((one for one in self.machines if one.id == wanted and one.account == KEY), None)
        if found is None or not found.found(now):
            return self.error(404, "RentalNotFound", "There is no such rental")
        if found.state(now) == "ended":
            return self.error(400, "AlreadyTerminated", "The rental was terminated")
        if now < found.ordered + found.timing.earliest_end:
            return self.error(400, "TooEarly", "The rental cannot be terminated yet")
        self.end(found)
        return Answer(200, checked(schemas.Terminated, {"message": "Rental terminated", "rentalId": int(wanted)}))

    def _record(self, machine: Machine) -> dict[str, Any]:
        now = self.clock.now()
        status = {"booting": "Pending", "running": "Running", "ending": "Terminating"}[machine.state(now)]
        address = machine.address_at(now)
        record: dict[str, Any] = {
            "id": int(machine.id),
            "status": status,
            "gpuType": machine.type,
            "gpuCount": machine.gpus,
            "region": machine.region,
            "createdAt": _time(machine.ordered),
            "currentTerm": {"costPerHourCents": machine.micros_per_hour / MICROS_PER_CENT},
            "label" if machine.name != RANDOM_NAME else "name": machine.name,
        }
        if machine.state(now) != "booting":
            record["startedAt"] = _time(machine.ordered + machine.timing.boot)
        if address is not None:
            ssh = {"host": address.host, "port": address.port, "user": address.user}
            record["providerData"] = {"sshNetworking": [ssh], "nodeNetworking": [{"publicIp": address.host}]}
        return record


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.123+00")


def _strange(effect: Effect, record: dict[str, Any]) -> dict[str, Any]:
    match effect:
        case "new status":
            return {**record, "status": "Hibernated"}
        case "extra fields":
            return {**record, "organizationId": 7, "currentTerm": {**record["currentTerm"], "id": 3}}
        case "no ip" | "empty ip":
            return {**record, "providerData": {"sshNetworking": [], "nodeNetworking": []}}
        case "no name":
            return {**record, "label": None, "name": None}
        case "a record without status":
            return {key: value for key, value in record.items() if key != "status"}
        case "a record without id and name":
            return {key: value for key, value in record.items() if key not in ("id", "name", "label")}
        case "odd time":
            return {**record, "createdAt": "yesterday, about noon", "startedAt": 5}
        case "price in dollars" if "costPerHourCents" in record:
            return {**record, "costPerHourCents": record["costPerHourCents"] / 100}
        case "price in dollars":
            return {**record, "currentTerm": {"costPerHourCents": record["currentTerm"]["costPerHourCents"] / 100}}
        case _:
            raise AssertionError(f"{effect} is not known here")
