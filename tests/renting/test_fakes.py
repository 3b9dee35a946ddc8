"""The fake clouds, asked by another client than ours: strict about what they get, exact about what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from tests.patience import limit
from tests.renting.fakes.clock import FakeClock
from tests.renting.fakes.compute_api import FakeComputeEngine
from tests.renting.fakes.hyperbolic_api import FakeHyperbolic
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.machines import Machine, NoFleet, Timing
from tests.renting.fakes.script import Fault, Script
from tests.renting.fakes.server import KEY, OTHER_KEY, FakeCloud

LAUNCH: dict[str, Any] = {"region_name": "us-east-1", "instance_type_name": "gpu_1x_a10", "ssh_key_names": ["mine"]}
RENT: dict[str, Any] = {
    "gpuType": "h100", "region": "us-east-1", "gpuCount": 1, "networkType": "ethernet", "termType": "on-demand",
}  # fmt: skip
GONE = object()


class Client:
    """Speaks with a fake as somebody would who has only read its description."""

    def __init__(self, fake: FakeCloud) -> None:
        self.fake = fake
        self.headers = {"Authorization": f"Bearer {KEY}", "User-Agent": "somebody/1"}

    def __call__(self, method: str, path: str, body: Any = None, pause: float = 12.0) -> requests.Response:
        self.fake.clock.advance(pause)
        return requests.request(
            method, self.fake.address + path, json=body, headers=self.headers, timeout=limit(10), allow_redirects=False
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def of_lambda(clock: FakeClock, stack: ExitStack) -> Client:
    fake = FakeLambda(clock)
    fake.ssh_keys.append({"id": "1", "name": "mine", "public_key": "ssh-ed25519 AAAA"})
    stack.enter_context(fake.serve())
    return Client(fake)


@pytest.fixture
def of_hyperbolic(clock: FakeClock, stack: ExitStack) -> Client:
    fake = FakeHyperbolic(clock)
    stack.enter_context(fake.serve())
    return Client(fake)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"name": "n" * 64, "hostname": "h" * 63}, 200),
        (
            {
                "image": {"family": "ubuntu-lts"},
                "user_data": "#cloud-config",
                "tags": [{"key": "aq-end", "value": "1"}],
            },
            200,
        ),
        ({"quantity": 1}, 400),
        ({"ssh_key_names": ["mine", "mine"]}, 400),
        ({"ssh_key_names": []}, 400),
        ({"ssh_key_names": "mine"}, 400),
        ({"ssh_key_names": ["unknown"]}, 404),
        ({"name": "n" * 65}, 400),
        ({"name": 5}, 400),
        ({"hostname": "Host"}, 400),
        ({"hostname": "h" * 64}, 400),
        ({"tags": [{"key": "AQ", "value": "1"}]}, 400),
        ({"tags": [{"key": "a" * 56, "value": "1"}]}, 400),
        ({"tags": [{"key": "aq-x", "value": "v" * 129}]}, 400),
        ({"tags": {"aq-x": "1"}}, 400),
        ({"image": {"name": "x"}}, 400),
        ({"user_data": "x" * 1_000_001}, 400),
        ({"region_name": "us-nowhere-1"}, 400),
        ({"region_name": GONE}, 400),
        ({"instance_type_name": "gpu_9x_z1"}, 404),
        ({"instance_type_name": GONE}, 400),
        ({"region_name": "europe-central-1"}, 400),
        ({"instance_type_name": "gpu_8x_a100_80gb_sxm4"}, 400),
    ],
)
def test_lambda_checks_orders(of_lambda: Client, change: dict[str, Any], status: int) -> None:
    body = {name: value for name, value in (LAUNCH | change).items() if value is not GONE}
    answer = of_lambda("POST", "/instance-operations/launch", body)
    assert answer.status_code == status, answer.text
    assert len(of_lambda.fake.machines) == (status == 200)
    assert ("error" in answer.json()) is (status != 200)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"label": "aq-abc123-abcdefgh-tpaigw"}, 200),
        ({"gpuCount": "1"}, 422),
        ({"gpuCount": 1.0}, 422),
        ({"gpuCount": 3}, 400),
        ({"termType": "reserved"}, 422),
        ({"userData": "x"}, 422),
        ({"region": GONE}, 422),
        ({"region": "us-east-3", "gpuType": "rtx-6000-pro"}, 400),
        ({"gpuType": "b200", "gpuCount": 8, "networkType": "infiniband"}, 400),
        ({"networkType": "infiniband"}, 400),
    ],
)
def test_hyperbolic_checks_orders(of_hyperbolic: Client, change: dict[str, Any], status: int) -> None:
    body = {name: value for name, value in (RENT | change).items() if value is not GONE}
    answer = of_hyperbolic("POST", "/on-demand/virtual-machine-rentals", body)
    assert answer.status_code == status, answer.text
    assert len(of_hyperbolic.fake.machines) == (status == 200)
    assert bool(of_hyperbolic.fake.complaints) is (status == 422)


@pytest.mark.parametrize("agent", ["", "python-requests/2.34", "Python-urllib/3.11", "curl/8.5"])
def test_the_edge_refuses_libraries(of_lambda: Client, agent: str) -> None:
    of_lambda.headers["User-Agent"] = agent
    answer = of_lambda("GET", "/instances")
    assert (answer.status_code, answer.text) == (403, "error code: 1010")


@pytest.mark.parametrize("authorization", ["", f"Bearer {OTHER_KEY}", f"bearer {KEY}", KEY])
def test_a_wrong_key_is_refused(of_lambda: Client, of_hyperbolic: Client, authorization: str) -> None:
    for client, path in ((of_lambda, "/instances"), (of_hyperbolic, "/customer/balance")):
        client.headers["Authorization"] = authorization
        assert client("GET", path).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/instances/1"),
        ("GET", "/instance-operations/launch"),
        ("POST", "/instance-types"),
        ("GET", "/instances/1/2"),
        ("GET", "/"),
        ("GET", "/billing/get_current_balance"),
        ("PUT", "/firewall-rules"),
    ],
)
def test_other_calls_are_complained_about(of_lambda: Client, of_hyperbolic: Client, method: str, path: str) -> None:
    for client in (of_lambda, of_hyperbolic):
        assert client(method, path).status_code == 404
        assert len(client.fake.complaints) == 1


def test_too_many_requests_are_counted(of_lambda: Client) -> None:
    assert of_lambda("GET", "/instances").status_code == 200
    assert of_lambda("GET", "/instances", pause=0.5).status_code == 429
    assert of_lambda("GET", "/instances", pause=0.5).status_code == 200
    assert of_lambda("POST", "/instance-operations/launch", LAUNCH).status_code == 200
    assert of_lambda("POST", "/instance-operations/launch", LAUNCH, pause=11).status_code == 429
    assert of_lambda.fake.too_fast == 2
    assert len(of_lambda.fake.machines) == 1


def test_every_order_makes_an_instance_whatever_its_name(of_lambda: Client) -> None:
    for _ in range(2):
        of_lambda("POST", "/instance-operations/launch", {**LAUNCH, "name": "twice"})
    listed = of_lambda("GET", "/instances").json()["data"]
    assert [one["name"] for one in listed] == ["twice", "twice"]
    assert len({one["id"] for one in listed}) == 2


def test_terminating_what_is_not_ours_is_404(of_lambda: Client, of_hyperbolic: Client) -> None:
    assert isinstance(of_lambda.fake, FakeLambda) and isinstance(of_hyperbolic.fake, FakeHyperbolic)
    theirs = of_lambda.fake.order("theirs", account=OTHER_KEY)
    body = {"instance_ids": [theirs.id]}
    assert of_lambda("POST", "/instance-operations/terminate", body).status_code == 404
    their_rental = of_hyperbolic.fake.order("theirs", account=OTHER_KEY)
    path = "/on-demand/virtual-machine-rentals/terminate"
    assert of_hyperbolic("POST", path, {"rentalId": int(their_rental.id)}).status_code == 404
    assert of_hyperbolic("POST", path, {"id": int(their_rental.id)}).status_code == 422
    assert theirs.end_asked is None and their_rental.end_asked is None


@pytest.mark.parametrize(
    ("timing", "at", "state", "listed", "found"),
    [
        (Timing(boot=10), 9, "booting", True, True),
        (Timing(boot=10), 10, "running", True, True),
        (Timing(boot=float("inf")), 1e7, "booting", True, True),
        (Timing(list_lag=60), 59, "booting", False, True),
        (Timing(list_lag=60), 60, "booting", True, True),
        (Timing(missing_when_young=30), 29, "booting", True, False),
        (Timing(list_lag=float("inf"), missing_when_young=float("inf")), 1e7, "running", False, False),
    ],
)
def test_the_life_of_a_machine(timing: Timing, at: float, state: str, listed: bool, found: bool) -> None:
    machine = Machine("1", "x", "t", "r", 1_290_000, 1000.0, timing, KEY)
    assert (machine.state(1000 + at), machine.listed(1000 + at), machine.found(1000 + at)) == (state, listed, found)


def test_a_machine_costs_until_it_has_ended() -> None:
    machine = Machine("1", "x", "t", "r", 1_290_000, 0.0, Timing(boot=180, ending=20, listed_after_end=60), KEY)
    machine.end_asked = 37 * 60.0
    assert [machine.state(at) for at in (2219, 2220, 2239, 2240, 2299, 2300)] == [
        "running", "ending", "ending", "ended", "ended", "absent",
    ]  # fmt: skip
    # 37 min 20 s by the minute: 38 x $1.29 / 60; from when it ran, 34 min 20 s: 35 x $1.29 / 60; by the second.
    assert machine.bill(1e6, from_running=False, step=60) == 817_000
    assert machine.bill(1e6, from_running=True, step=60) == 752_500
    assert machine.bill(1e6, from_running=False, step=1) == -(-1_290_000 * 2240 // 3600)
    assert machine.bill(60.5, from_running=False, step=60) == 43_000


def test_what_vanishes_or_ends_itself_costs_no_more() -> None:
    for field in ("vanished", "ends_itself"):
        machine = Machine("1", "x", "t", "r", 3_600_000, 0.0, Timing(), KEY)
        setattr(machine, field, 600.0)
        assert not machine.alive(600) and machine.alive(599)
        assert machine.bill(1e6, from_running=False, step=60) == 600_000


def test_faults_come_by_number_by_time_and_by_chance() -> None:
    script = Script([Fault("rent", "500", calls=(2,)), Fault("list", "503", between=(10, 20))])
    assert [script.pick("rent", 0) for _ in range(3)] == [None, "500", None]
    assert [script.pick("list", at) for at in (9, 10, 19, 20)] == [None, "503", "503", None]
    often = [Script([Fault("list", "500", chance=0.2)], seed).pick("list", 0) for seed in range(1000)]
    assert 150 < often.count("500") < 250
    again = Script([Fault("list", "500", chance=0.2)], 7), Script([Fault("list", "500", chance=0.2)], 7)
    assert [again[0].pick("list", 0) for _ in range(50)] == [again[1].pick("list", 0) for _ in range(50)]


def test_addresses_are_new_unless_they_are_given_again() -> None:
    for reuse in (False, True):
        fleet = NoFleet(reuse=reuse)
        first = Machine("1", "x", "t", "r", 1, 0.0, Timing(), KEY)
        first.address = fleet.boot(first)
        fleet.stop(first)
        second = fleet.boot(Machine("2", "y", "t", "r", 1, 0.0, Timing(), KEY))
        assert (second.host == first.address.host) is reuse


def test_credit_ends_in_the_right_second(clock: FakeClock) -> None:
    fake = FakeHyperbolic(clock, timing=Timing(boot=0), credit_cents=275)  # one hour of the first option
    machine = fake.order("x", row=0)
    clock.advance(10 * 3600)
    fake.settle()
    assert machine.vanished is not None
    assert abs(machine.vanished - machine.ordered - 59 * 60) <= 1, "the 60th minute begins, and takes the rest"
    assert fake.bill() == 2_750_000


def test_compute_engine_obeys_a_request_id_once(clock: FakeClock, stack: ExitStack) -> None:
    fake = FakeComputeEngine(clock)
    stack.enter_context(fake.serve())
    client = Client(fake)
    body = {
        "name": "one",
        "machineType": "zones/us-central1-a/machineTypes/g2-standard-4",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": "x", "diskSizeGb": "50"}}],
        "networkInterfaces": [{"network": "global/networks/default"}],
    }
    place = "/projects/our-project/zones/us-central1-a/instances"
    for _ in range(2):
        path = f"{place}?requestId=7a2d2eed-6ca4-5c6f-8603-a9507c95b730"
        assert client("POST", path, body).status_code == 200
    assert len(fake.machines) == 1
    other = f"{place}?requestId=8a2d2eed-6ca4-5c6f-8603-a9507c95b730"
    assert client("POST", other, body).json()["error"]["errors"][0]["reason"] == "alreadyExists"
    assert fake.complaints == []
    lasting = [{**body["disks"][0], "autoDelete": False}]  # type: ignore[index]
    assert client("POST", other, {**body, "name": "two", "disks": lasting}).status_code == 400
    assert len(fake.complaints) == 1
