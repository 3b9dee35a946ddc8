"""`aquarat plan` and `launch --plan` with a pool: what runs on a rented host, for how long and for how much."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.cli import main
from aquarat_core.config import load_profile
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.runs import rentable
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.server import KEY
from tests.renting.small_cloud import A10
from tests.renting.world import World

pytestmark = pytest.mark.slow

RENT = (
    "accounts: {{mine: {{cloud: lambda, address: '{address}', per_day: 300, per_month: 1500}}}}\n"
    "pools: {{h100: {{from: [{{account: mine, types: ['gpu_8x_*']}}], max_price_per_hour: 34, hours: 8, "
    "automatic: true}}}}\n"
)
PLAN = ["plan", "base_checkpoint", "rl_checkpoint", "--profile", "d12", "--pool", "h100"]


@pytest.fixture
def fake() -> Iterator[FakeLambda]:
    clock: Any = SimpleNamespace(now=time.time)
    with FakeLambda(clock, every=0.5).serve() as fake:
        assert isinstance(fake, FakeLambda)
        yield fake
        assert fake.complaints == [] and fake.too_fast == 0
        assert not [verb for verb, _ in fake.requests if verb not in ("offers",)], "nothing but prices was asked for"


@pytest.fixture
def home(fake: FakeLambda, tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("")
    (home / "hosts.yaml").write_text("hosts: [{name: here, transport: local}]\n")
    (home / "rent.yaml").write_text(RENT.format(address=fake.address))
    for name, value in (("DAGSTER_HOME", home), ("LAMBDA_API_KEY", KEY), ("AQUARAT_CACHE", tmp_path)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("DAGSTER_MODULE_NAME", "aquarat_pipeline.definitions")
    monkeypatch.setattr(rentable, "why_not_here", lambda: None)
    return home


def said(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*argv]) == code
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err
    return captured.out + captured.err


def test_a_plan_has_the_live_price_and_all_that_is_paid_for(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = said(capsys, *PLAN)
    # The same 334 s as at a host of ours (test_readiness.py), and 65 min until it is ready, and 10 min idle.
    assert "base_checkpoint  rented from h100  6 min (estimate)" in text
    assert "rl_checkpoint    rented from h100  13 min (estimate, at most)" in text, "the hours of the table below it"
    assert "rented from h100: gpu_8x_h100_sxm5 in us-east-1 from mine at $31.92 an hour, the live price" in text
    assert (
        "cost: about $49.82 for 19 min of work, 65 min until it is ready (at most, by the limits of rent.yaml; "
        "nothing of h100 was rented before) and 10 min idle\n"
    ) in text
    assert "caps: a rental counts up to $272.00 (8 h at $34.00); they allow it now" in text
    assert "hosts: 2 stages with 8 GPUs on a host of the pool h100 of rent.yaml (at most $34.00 an hour" in text
    facts = json.loads(said(capsys, *PLAN, "--json"))
    (rental,) = facts["rentals"]
    assert rental["hourly_micros"] == 31_920_000 and rental["live"] and rental["forbids"] is None
    assert rental["unknown"] == [] and rental["most_micros"] == 272_000_000
    assert 49_810_000 < rental["cost_micros"] <= 49_820_000
    assert facts["make"][0]["basis"] == "estimate" and 330 < facts["make"][0]["seconds"] < 338
    launched = json.loads(said(capsys, "launch", *PLAN[1:], "--plan", "--json"))
    assert launched["rentals"] == facts["rentals"], "launch --plan says the same"

    monkeypatch.delenv("LAMBDA_API_KEY")
    text = said(capsys, *PLAN)
    assert "rented from h100: at most $34.00 an hour, the pool's limit" in text
    assert "note: no live price: mine: LAMBDA_API_KEY is not set" in text
    assert "without base_checkpoint, rl_checkpoint, of which nothing is known" in text
    assert "whether they allow it now can only be said of an offer" in text
    assert not Ledger(home).load().rentals


def test_caps_and_budgets_are_told_before_anything_is_queued(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *PLAN, "--budget", "100", code=1)
    assert "a budget of $100.00 is never enough for a host of the pool h100" in text
    assert "--budget limits what is rented from a pool of rent.yaml: name it with --pool" in said(
        capsys, "plan", "base_checkpoint", "--budget", "100", code=2
    )
    world = World(home, seconds=time.time())
    order = world.order(hours=8).order
    account = order.account.model_copy(update={"name": "mine"})
    dear = order.model_copy(
        update={"name": order.name.replace(order.rental, "aaaaaaaa"), "account": account, "max_price_micros": 4_000_000}
    )
    world.ledger.order(dear)
    text = said(capsys, *PLAN)
    assert "it would wait: $300.00 a day from mine are allowed, $0.00 are spent and $32.0" in text


def test_what_was_measured_counts_if_it_was_on_such_gpus(
    home: Path, store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], fake: FakeLambda
) -> None:
    profile = load_profile("d12")
    (tmp_path / "content").mkdir()
    (tmp_path / "content/x").write_text("x")
    store = ArtifactStore.open(store_uri)
    for name in ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens", "base_checkpoint"):
        section = STAGES[name].config(profile)
        store.publish(
            asset=name, kind=STAGES[name].kind, directory=tmp_path / "content", profile="d12", parents=(),
            config=section.model_dump(mode="json") if section else {}, code=CodeVersion(version="1"),
            metrics={"seconds": 36_000.0}, seeds={}, run_id="r",
        )  # fmt: skip
    facts = json.loads(said(capsys, *PLAN, "--json"))
    assert facts["make"][0]["basis"] == "estimate", "it was made on this machine's processor"
    fake.capacity["gpu_8x_h100_sxm5"] = []
    text = said(capsys, *PLAN)
    assert "10 h (measured)" in text and "note: nothing of it can be rented now: gpu_8x_" in text
    assert "cost: at least $425.00 for 10 h of work, 2 times 65 min until it is ready" in text
    assert "rentals: 2 one after the other, because each ends after 8 h; the run goes on" in text


def test_the_time_until_it_is_ready_is_that_of_the_last_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(home, seconds=time.time() - 7200)
    rental = world.order(hours=1, pool="h100", managed=True)
    at = rental.order.ordered
    for state, seconds, facts in (
        ("asking", 0.0, {}), ("granted", 1.0, {"instance_id": "i-1"}), ("booting", 60.0, {}), ("reachable", 120.0, {}),
        ("fit", 180.0, {}), ("ready", 360.0, {}), ("ending", 999.0, {}), ("gone", 999.0, {"ended": at + 999}),
    ):  # fmt: skip
        rental = world.ledger.append(rental, state, at + seconds, **facts)  # pyright: ignore[reportArgumentType]
    assert A10.price == Money.cents(129)
    assert "6 min until it is ready (as last time) and 10 min idle" in said(capsys, *PLAN)
