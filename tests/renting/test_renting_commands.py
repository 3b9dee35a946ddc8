"""`aquarat hosts rent`, `rentals`, `extend`, `terminate`, `cost` and `reap`, with a fake provider over HTTP."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from aquarat_core.cli import main
from aquarat_pipeline.renting import keeping
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.names import RentalName
from tests.patience import wait_until
from tests.renting.commands import RENT, machine, said
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.server import KEY


def test_an_order_is_shown_with_its_price_before_it_is_made(unkept: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, [*RENT, "--dry-run"], 0)
    assert "gpu_1x_a10 in us-east-1 from mine: 1 A10, $1.29 an hour each, for 1 h at most: $1.50 at most" in text
    assert "nobody can be asked here: say --yes" in said(capsys, RENT, 2)
    assert not unkept.load().rentals
    said(capsys, ["hosts", "rent", "--pool", "small", "--dry-run"], 0)
    said(capsys, [*RENT, "-y", "--no-wait", "--name", "first"], 0)
    (rental,) = unkept.load().rentals
    assert (rental.state, rental.order.label, rental.order.max_price_micros) == ("intended", "first", 1_500_000)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--type", "gpu_1x_a10"], "say for how long and for how much: --hours 2 --max-price 1.50"),
        (["--type", "gpu_1x_a1O", "--hours", "1", "--max-price", "2"], "did you mean gpu_1x_a10?"),
        (["--type", "gpu_1x_a10", "--region", "us-east1", "--hours", "1", "--max-price", "2"], "us-east-1?"),
        (["--offer", "gpu_1x_a10@us-east1", "--hours", "1", "--max-price", "2"], "did you mean gpu_1x_a10@us-east-1?"),
        (["--type", "gpu_1x_a10", "--hours", "1", "--max-price", "1"], "gpu_1x_a10@us-east-1: above $1.00 an hour"),
        (["--type", "gpu_1x_a10", "--hours", "3", "--max-price", "1.3"], "$3.00 a day from mine are allowed"),
        (["--type", "gpu_1x_a10", "--hours", "1000", "--max-price", "1.3"], "cannot be ordered"),
        (
            ["--type", "gpu_1x_a10", "--hours", "1", "--max-price", "129"],
            "for the whole host are meant",
        ),
        (["--pool", "smal"], "has no pool 'smal': did you mean small?"),
        (["--pool", "small", "--region", "us-west-*"], "gpu_1x_a10@us-west-1: above $1.00 an hour"),
        (["--pool", "small", "--account", "other"], "there is no account 'other'"),
        (["--pool", "small", "--count", "0"], "--count must be at least 1"),
    ],
)
def test_what_cannot_be_rented_is_said(
    unkept: Ledger, capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    assert text in said(capsys, ["hosts", "rent", *argv, "-y"], 2)
    assert not unkept.load().rentals


def test_a_key_that_is_wrong_or_missing(
    unkept: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_API_KEY", "wrong")
    assert "nothing can be rented" in said(capsys, [*RENT, "--account", "mine", "-y"], 2)
    monkeypatch.delenv("LAMBDA_API_KEY")
    assert "LAMBDA_API_KEY is not set" in said(capsys, [*RENT, "-y"], 2)
    assert not unkept.load().rentals


def test_a_broken_file_stops_new_rentals_only(unkept: Ledger, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, [*RENT, "-y", "--no-wait", "--name", "first"], 0)
    (home / "rent.yaml").write_text("accounts: {mine: {cloud: lamda}}")
    assert "did you mean lambda?" in said(capsys, [*RENT, "-y"], 2)
    assert "nothing new can be rented: " in said(capsys, ["hosts", "rentals"], 1), "1, as no keeper is at work"
    assert "asked to end" in said(capsys, ["hosts", "terminate", "first", "--no-wait"], 0)
    assert unkept.load().rentals[0].end_asked == "drain"


def test_extend_up_to_the_end_in_the_name(unkept: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, [*RENT, "--most-hours", "1.5", "-y", "--no-wait"], 0)
    (rental,) = unkept.load().rentals
    assert "UTC" in said(capsys, ["hosts", "extend", rental.id, "--hours", "0.5"], 0)
    assert unkept.read(rental.id).end == rental.end + 1800
    assert "can be extended by 0.00 h at most" in said(capsys, ["hosts", "extend", rental.id, "--hours", "0.1"], 2)


def test_status_shows_what_is_rented(unkept: Ledger, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = ["status", "--store", f"file://{home}/store"]
    assert "\nrented" not in said(capsys, status, 0)
    said(capsys, [*RENT, "-y", "--no-wait", "--name", "first"], 0)
    (rental,) = unkept.load().rentals
    text = " ".join(said(capsys, status, 0).split())
    assert (
        f" rented {rental.id} (first): gpu_1x_a10, not asked for yet, 0 min, $1.29/h, ends in 60 min, $0.00 so far"
        in text
    )


def test_a_stranger_is_refused(unkept: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert "was not rented from here, so it is not touched" in said(capsys, ["hosts", "terminate", "their-host"], 2)
    assert "name the rentals to end, or say --all" in said(capsys, ["hosts", "terminate"], 2)


def test_only_a_nameless_instance_is_taken_for_an_unclear_rental(
    fake: FakeLambda, unkept: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped id must not end what belongs to somebody else."""
    said(capsys, [*RENT, "-y", "--no-wait", "--name", "first"], 0)
    (rental,) = unkept.load().rentals
    for state in ("asking", "unclear"):
        rental = unkept.append(rental, state, time.time())
    theirs, nameless = machine(fake, "their-host"), machine(fake, None)
    end = ["hosts", "terminate", "first", "--no-wait", "--provider-id"]
    assert "is named their-host" in said(capsys, [*end, theirs.id], 2)
    assert "lists no instance 'no-such-id'" in said(capsys, [*end, "no-such-id"], 2)
    assert unkept.load().rentals == (rental,)
    said(capsys, [*end, nameless.id], 0)
    assert unkept.load().rentals[0].instance_id == nameless.id


def test_reap_needs_a_key_and_an_installation_only(
    fake: FakeLambda, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aquarat_pipeline.renting.clouds import lambda_cloud

    monkeypatch.setattr(lambda_cloud, "ADDRESS", fake.address)
    monkeypatch.delenv("DAGSTER_HOME")
    over, still = int(time.time()) - 301, int(time.time()) + 60
    late = machine(fake, str(RentalName("abc123", "aaaaaaaa", over)))
    others = [
        str(RentalName("abc123", "bbbbbbbb", still)),
        str(RentalName("abc124", "cccccccc", over)),
        "aq-abc123",
        None,
    ]
    kept = [machine(fake, name) for name in others]
    reap = ["hosts", "reap", "--installation", "abc123"]
    with pytest.raises(SystemExit, match="3"):
        main([*reap, "--dry-run"])
    assert len(fake.alive()) == 5
    with pytest.raises(SystemExit, match="3"):
        main(reap)
    assert f"asked to end {late.name}" in capsys.readouterr().out and late.end_asked is not None
    time.sleep(1.1)
    assert main(reap) == 0 and len(fake.alive()) == len(kept)
    assert "lambda: 1 of ours, 3 of others" in capsys.readouterr().out
    monkeypatch.setenv("LAMBDA_API_KEY", "wrong")
    with pytest.raises(SystemExit, match="4"):
        main(reap)
    assert "six of a-z" in said(capsys, ["hosts", "reap", "--installation", "Nope"], 2)
    assert "whose rentals?" in said(capsys, ["hosts", "reap"], 2)


def test_what_the_provider_lists_is_told_apart(
    fake: FakeLambda, unkept: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(fake, "their-host")
    machine(fake, str(RentalName(unkept.installation(), "aaaaaaaa", int(time.time()) + 999)))
    listed = json.loads(said(capsys, ["hosts", "rentals", "--provider", "--json"], 0))["listed"]
    whose = {row[4] for row in listed if row[0] == "mine"}
    assert whose == {"foreign", "ours, not in the ledger"}


def test_an_account_that_cannot_be_looked_at_is_a_problem(
    unkept: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_API_KEY", "another")
    told = json.loads(said(capsys, ["hosts", "rentals", "--provider", "--json"], 1))
    assert (
        told["listed"] == []
        and "what mine has is not known: mine: Lambda says global/invalid-api-key" in told["problems"][0]
    )


@pytest.mark.slow
def test_a_real_keeper_rents_and_ends_and_is_followed_by_another(
    fake: FakeLambda, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes in real time. The first keeper is killed while the host runs."""
    ledger = Ledger(home)
    lock = home / "aquarat" / "keeper.lock"
    try:
        text = said(capsys, [*RENT, "-y", "--name", "first", "--no-prepare"], 0)
        (rental,) = ledger.load().rentals
        assert "is ready: ssh -i $DAGSTER_HOME/aquarat/rentals/id_ed25519 -o UserKnownHostsFile=" in text
        assert f"/known_hosts -o HostKeyAlias={rental.id} -p 22 ubuntu@203.0.113.1" in text
        assert [one.name for one in fake.alive()] == [rental.name]
        os.kill(int(lock.read_text()), signal.SIGKILL)
        wait_until(lambda: not keeping.is_alive(home), 30, "the keeper is gone")
        assert "no keeper was at work: one was started" in said(capsys, ["hosts", "rentals"], 1)
        text = said(capsys, ["hosts", "terminate", "first", "--now"], 0)
        assert f"{rental.id} is gone" in text and not fake.alive()
        cost = json.loads(said(capsys, ["hosts", "cost", "--json"], 0))
        assert fake.bill() <= cost["total_micros"] <= fake.bill() + 2 * 21_500
        assert KEY not in (home / "aquarat" / "keeper.log").read_text()
    finally:
        if keeping.is_alive(home):
            os.kill(int(lock.read_text()), signal.SIGKILL)


def test_a_pool_passes_over_offers_that_rest(unkept: Ledger, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """Whoever names the offer gets it nevertheless."""
    text = (home / "rent.yaml").read_text().replace("per_day: 3", "per_day: 30").replace("gpu_1x_*", "gpu_1x_a10")
    (home / "rent.yaml").write_text(text.replace("max_price_per_hour: 1.00", "max_price_per_hour: 1.30"))
    pool = ["hosts", "rent", "--pool", "small", "-y", "--no-wait", "--region", "us-east-1"]
    text = said(capsys, pool, 0)
    (rental,) = unkept.load().rentals
    assert rental.order.managed and rental.order.phases.idle == 600
    why = "unfit: its NVIDIA driver is too old"
    for state, facts in (("asking", {}), ("granted", {"instance_id": "i"}), ("ending", {"why": why, "code": "unfit"})):
        rental = unkept.append(rental, state, time.time(), **facts)  # type: ignore[arg-type]
    text = said(capsys, ["hosts", "rentals", "--json"], 1)
    (row,) = json.loads(text.splitlines()[0])["rentals"]
    assert row["phase"] == "ending 0 min" and row["managed"]
    text = said(capsys, pool, 2)
    assert "@us-east-1: it rests until " in text and f"after {rental.id}: its NVIDIA driver is too old" in text
    offer = rental.order.offer.id
    said(capsys, ["hosts", "rent", "--offer", offer, "--hours", "1", "--max-price", "1.3", "-y", "--no-wait"], 0)


def test_nothing_is_rented_that_could_not_be_prepared(
    unkept: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUARAT_STORE", "file:///srv/store")
    text = said(capsys, [*RENT, "-y", "--no-wait"], 2)
    assert "the store is file:///srv/store, which rented hosts cannot reach: set AQUARAT_STORE=gs://" in text
    assert not unkept.load().rentals
    said(capsys, [*RENT, "-y", "--no-wait", "--no-prepare"], 0)
    assert not unkept.load().rentals[0].order.managed
