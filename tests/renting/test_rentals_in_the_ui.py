"""What the Dagster UI shows of rentals: the asset `rented_hosts`, its checks, and the sensor that fills both."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from aquarat_pipeline.checks.check import ERROR, WARN, Finding
from aquarat_pipeline.checks.rentals import CHECKS
from aquarat_pipeline.renting import credit, heartbeats, keeping
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.heartbeats import Heartbeat, Look, Pass
from aquarat_pipeline.renting.requests import extend
from aquarat_pipeline.renting.watching import Known
from aquarat_pipeline.sensors import rentals as sensor_module
from aquarat_pipeline.sensors.rentals import rented_hosts
from tests.renting.world import World

RENT = {"accounts": {"lambda": {"cloud": "lambda", "per_day": 5, "max_rentals": 2}}}
BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, config=RentConfig.model_validate(RENT))


def judge(world: World, name: str, *, kept: bool = True, unprotected: str | None = None, **more: Any) -> Finding:
    facts: dict[str, Any] = {"problems": (), "config": world.config, "broken": None} | more
    return BY_NAME[name].evaluate(Known(world.now(), world.rentals(), kept=kept, unprotected=unprotected, **facts))


def names(world: World) -> list[str]:
    return [name for name in BY_NAME if not judge(world, name).passed]


# --- the checks, as functions of the ledger -------------------------------------------------------------------------


def test_nothing_rented_passes_everything(world: World) -> None:
    assert names(world) == []
    assert judge(world, "rentals_within_limits", kept=False).passed, "nothing is there to be kept"


def test_a_rental_that_ends_as_it_should_passes_all_its_life(world: World) -> None:
    world.order(hours=0.5)
    while not world.settled():
        world.turn()
        assert names(world) == []
    assert "$0.67 are spent this month" in judge(world, "budget").said


def test_an_end_without_effect_warns_and_then_fails(world: World) -> None:
    world.order(hours=0.5)
    world.run(lambda: world.only().state == "ready")
    world.cloud.machines[0].deaf = 10_000
    world.run(lambda: world.only().state == "ending")
    began = world.seconds
    assert judge(world, "terminations_proven").passed
    world.run(lambda: world.seconds >= began + 310)
    finding = judge(world, "terminations_proven")
    assert (finding.passed, finding.severity) == (False, WARN)
    world.run(lambda: world.seconds >= began + 910)
    finding = judge(world, "terminations_proven")
    assert (finding.passed, finding.severity) == (False, ERROR)
    assert "should have ended 15 min ago" in finding.said and "in the dashboard of Lambda" in finding.said
    assert finding.facts["cost_of_what_should_have_ended_usd"] == pytest.approx(0.344, abs=0.022)


def test_a_ledger_that_cannot_be_read_is_an_error(world: World) -> None:
    finding = judge(world, "terminations_proven", problems=("folder x cannot be read",))
    assert (finding.severity, finding.said) == (ERROR, "Folder x cannot be read.")


def test_without_a_keeper_a_rental_outlives_its_time(world: World) -> None:
    world.order(hours=0.5)
    world.run(lambda: world.only().state == "ready")
    finding = judge(world, "rentals_within_limits", kept=False)
    assert (finding.passed, finding.severity) == (False, WARN) and "No keeper is at work" in finding.said
    world.seconds = world.only().end + 299
    assert judge(world, "rentals_within_limits").passed
    world.seconds += 1
    finding = judge(world, "rentals_within_limits")
    assert finding.severity == ERROR and "should have begun to end 5 min ago, and costs $1.29 an hour" in finding.said


def test_more_than_rent_yaml_allows_now(world: World) -> None:
    for _ in range(2):
        world.order(hours=1)
    world.run(lambda: all(rental.state == "ready" for rental in world.rentals()))
    fewer = RentConfig.model_validate({"accounts": {"lambda": {"cloud": "lambda", "max_rentals": 1, "max_gpus": 1}}})
    finding = judge(world, "rentals_within_limits", config=fewer)
    assert finding.severity == WARN and "allows 1 rentals of lambda, and 2 are open" in finding.said
    assert "allows 1 GPUs of lambda, and 2 are rented" in finding.said
    broken = judge(world, "rentals_within_limits", broken="rent.yaml: pools: nonsense", config=RentConfig())
    assert "Nothing new can be rented: rent.yaml: pools: nonsense" in broken.said


def test_money_over_a_limit(world: World) -> None:
    world.order(hours=3)
    world.run(lambda: world.only().state == "ready")
    assert judge(world, "budget").passed
    lower = RentConfig.model_validate({"accounts": {"lambda": {"cloud": "lambda", "per_day": 2}}})
    assert judge(world, "budget", config=lower).severity == WARN
    assert "promised, which together are more than $2.00" in judge(world, "budget", config=lower).said
    world.seconds += 2 * 3600
    finding = judge(world, "budget", config=lower)
    assert finding.severity == ERROR and "are spent on lambda today, and $2.00 are allowed" in finding.said
    assert finding.facts["lambda_today_spent_usd"] > 2


def test_a_run_that_passes_its_budget(world: World) -> None:
    world.order(hours=3, run="0123456789", run_budget_micros=4_000_000)
    world.run(lambda: world.only().state == "ready")
    assert judge(world, "budget").passed
    # As if a price had risen.
    rental = world.ledger.append(world.only(), "ready", world.now(), price_micros=9_000_000)
    assert judge(world, "budget", config=RentConfig()).severity == WARN
    assert "for run 01234567 and" in judge(world, "budget", config=RentConfig()).said
    assert rental.state == "ready"


def test_a_balance_that_runs_out_is_a_matter_of_the_budget(world: World) -> None:
    world.order(hours=3)
    world.run(lambda: world.only().state == "ready")
    why = "the balance of lambda lasts for less than half an hour"
    world.ledger.append(world.only(), "ready", world.now(), why, end_asked="drain", code=credit.CODE)
    assert names(world) == ["budget"] and judge(world, "budget").severity == WARN
    assert "is drained, because the balance of lambda lasts" in judge(world, "budget").said


def test_the_second_reaper(world: World) -> None:
    finding = judge(world, "second_reaper_alive", unprotected="no second reaper was seen")
    assert (finding.passed, finding.severity, finding.said) == (False, WARN, "No second reaper was seen.")


# --- in Dagster -----------------------------------------------------------------------------------------------------


class Ticks:
    """The sensor as the daemon asks it, tick after tick; what it reports is recorded as the daemon does."""

    def __init__(self, world: World, instance: dg.DagsterInstance) -> None:
        self.world, self.instance, self.cursor = world, instance, None
        defs = rented_hosts(world.home, world.now)
        self.sensor = defs.get_repository_def().get_sensor_def("watch_rentals")

    def __call__(self) -> list[Any]:
        data = self.sensor.evaluate_tick(dg.build_sensor_context(self.instance, cursor=self.cursor))
        self.cursor = data.cursor
        assert not data.run_requests
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        return list(data.asset_events)

    def states(self) -> list[str]:
        return [event.tags["state"] for event in self() if isinstance(event, dg.AssetObservation)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the instance, of the ledger, and the store beside them."""
    monkeypatch.setenv("AQUARAT_STORE", f"file://{tmp_path}/store")
    monkeypatch.setattr(sensor_module, "BEATS_SECONDS", 0.0)
    return Path(tmp_path)


@pytest.fixture
def ticks(here: Path, instance: dg.DagsterInstance) -> Ticks:
    home = Path(instance.root_directory)
    (home / "rent.yaml").write_text(json.dumps(RENT))
    return Ticks(World(home, config=RentConfig.model_validate(RENT)), instance)


def checks_of(instance: dg.DagsterInstance) -> dict[str, tuple[bool, str]]:
    found: dict[str, tuple[bool, str]] = {}
    for name in BY_NAME:
        key = dg.AssetCheckKey(dg.AssetKey("rented_hosts"), name)
        record = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0]
        evaluation = record.event.asset_check_evaluation
        found[name] = evaluation.passed, evaluation.description
    return found


def test_who_never_rents_sees_nothing(tmp_path: Path) -> None:
    for home in (None, tmp_path):
        defs = rented_hosts(home)
        assert not list(defs.assets or ()) and not list(defs.sensors or ()) and not list(defs.asset_checks or ())
    World(tmp_path).order()
    assert list(rented_hosts(tmp_path).sensors or ())


def test_each_change_of_state_becomes_one_observation(ticks: Ticks) -> None:
    world = ticks.world
    assert ticks.states() == [], "there is nothing yet"
    rental = world.order(hours=0.5, label="first", pool=None)
    seen = ticks.states()
    while not world.settled():
        world.turn()
        seen += ticks.states()
    assert seen == ["asking", "granted", "booting", "ready", "ending", "gone"]
    assert ticks.states() == []
    record = ticks.instance.fetch_observations(dg.AssetKey("rented_hosts"), limit=1).records[0]
    metadata = {name: value.value for name, value in record.asset_observation.metadata.items()}
    assert metadata["cost_usd"] == world.cost().micros / 1e6 and metadata["price_per_hour_usd"] == 1.29
    assert (metadata["rental"], metadata["label"], metadata["pool"]) == (rental.id, "first", "by hand")
    assert metadata["console"] == "https://cloud.lambda.ai" and metadata["ends"] == rental.end
    assert metadata["open_now"].records == []


def test_an_extension_is_an_observation_with_the_new_end(ticks: Ticks) -> None:
    world = ticks.world
    rental = world.order(hours=0.5, most=1)
    world.run(lambda: world.only().state == "ready")
    ticks()
    longer = extend(world.ledger, world.only(), 0.25, world.now())
    assert ticks.states() == ["ready"]
    record = ticks.instance.fetch_observations(dg.AssetKey("rented_hosts"), limit=1).records[0]
    assert record.asset_observation.metadata["ends"].value == longer.end == rental.end + 900


def test_the_latest_observation_lists_all_that_is_open(ticks: Ticks) -> None:
    made = [ticks.world.order(hours=1, label=label) for label in ("one", "two")]
    ticks.world.run(lambda: all(rental.state == "ready" for rental in ticks.world.rentals()))
    ticks()
    record = ticks.instance.fetch_observations(dg.AssetKey("rented_hosts"), limit=1).records[0]
    rows = record.asset_observation.metadata["open_now"].value.records
    assert sorted(row.data["rental"] for row in rows) == sorted(rental.id for rental in made)
    assert {row.data["state"] for row in rows} == {"ready"} and {row.data["label"] for row in rows} == {"one", "two"}


def test_what_was_over_before_is_no_news_and_a_lost_cursor_does_no_harm(ticks: Ticks) -> None:
    ticks.world.order(hours=0.5)
    ticks.world.run(ticks.world.settled)
    assert ticks.states() == []
    ticks.world.order(hours=0.5)
    ticks.world.turn()
    assert ticks.states() != []
    for cursor in ("nonsense", "[]", '{"seen": 3}'):
        ticks.cursor = cursor
        assert ticks.states()[-1] == ticks.world.rentals()[-1].state


def test_checks_are_recorded_when_their_outcome_changes_and_once_an_hour(ticks: Ticks) -> None:
    def told() -> list[tuple[str, bool]]:
        return [(one.check_name, one.passed) for one in ticks() if isinstance(one, dg.AssetCheckEvaluation)]

    assert told() == [(name, True) for name in BY_NAME]
    ticks.world.seconds += 9000
    assert told() == [], "nothing is rented"
    ticks.world.order(hours=3)
    ticks.world.run(lambda: ticks.world.only().state == "ready")
    failed = [name for name, passed in told() if not passed]
    assert failed == ["rentals_within_limits", "second_reaper_alive"], "no keeper process is there"
    assert told() == []
    ticks.world.seconds += 3599
    assert told() == []
    ticks.world.seconds += 1
    assert [name for name, _ in told()] == list(BY_NAME)


def test_a_heartbeat_of_another_machine_is_seen(ticks: Ticks, here: Path) -> None:
    world = ticks.world
    world.order(hours=1)
    path = here / "store/rentals" / world.ledger.installation() / "reapers/box.json"
    told = Pass(machine="box", boot="another", at=0, looks=(Look(account="lambda", cloud="lambda", looked=True),))
    heartbeats.write(f"file://{here}/store", world.ledger.installation(), told)
    world.seconds = path.stat().st_mtime + 60
    ticks()
    assert checks_of(ticks.instance)["second_reaper_alive"][0]
    world.seconds += 1800
    ticks()
    passed, said = checks_of(ticks.instance)["second_reaper_alive"]
    assert not passed and "box was there 31 min ago" in said


def test_a_store_that_hangs_does_not_hold_up_a_tick(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hang(store: str, installation: str) -> Sequence[Heartbeat]:
        ended.wait()
        return []

    monkeypatch.setattr(heartbeats, "read", hang)
    monkeypatch.setattr(sensor_module, "PATIENCE_SECONDS", 0.05)
    ticks.world.order(hours=1)
    ticks()
    assert "the store did not answer within 0.05 s" in checks_of(ticks.instance)["second_reaper_alive"][1]
    ended.set()


def test_the_checks_can_be_evaluated_from_the_page(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "is_alive", lambda home: True)
    ticks.world.order(hours=1)
    defs = rented_hosts(ticks.world.home, ticks.world.now)
    job = defs.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetCheckKey(dg.AssetKey("rented_hosts"), name) for name in ("budget", "second_reaper_alive")]
    result = job.get_subset(asset_check_selection=set(keys)).execute_in_process(instance=ticks.instance)
    assert result.success
    found = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    assert found == {"budget": True, "second_reaper_alive": False}


def test_nothing_of_it_asks_a_cloud(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    from aquarat_pipeline.renting.clouds import cloud

    def never(*_: Any) -> None:
        raise AssertionError("a cloud was asked")

    ticks.world.order(hours=1)
    ticks.world.run(lambda: ticks.world.only().state == "ready")
    monkeypatch.setattr(cloud, "connect", never)
    before = len(ticks.world.cloud.rents)
    assert ticks() and len(ticks.world.cloud.rents) == before
