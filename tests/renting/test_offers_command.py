"""`aquarat hosts offers`: what it lists, and how it answers what cannot be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aquarat_core.cli import main
from aquarat_pipeline.renting.clouds import hyperbolic, lambda_cloud
from tests.renting.fakes.hyperbolic_api import FakeHyperbolic
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.script import Fault, always
from tests.renting.fakes.server import KEY
from tests.renting.world import World
from tests.serving import free_port


class Clouds:
    """Both fakes at work, in real time, with a key for each."""

    def __init__(self, stack: ExitStack) -> None:
        clock: Any = SimpleNamespace(now=time.time)
        self.of_lambda = FakeLambda(clock, every=0.5)
        self.of_hyperbolic = FakeHyperbolic(clock, every=0.5)
        stack.enter_context(self.of_lambda.serve())
        stack.enter_context(self.of_hyperbolic.serve())


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Clouds]:
    with ExitStack() as stack:
        made = Clouds(stack)
        monkeypatch.setattr(lambda_cloud, "ADDRESS", made.of_lambda.address)
        monkeypatch.setattr(hyperbolic, "ADDRESS", made.of_hyperbolic.address)
        monkeypatch.setenv("LAMBDA_API_KEY", KEY)
        monkeypatch.setenv("HYPERBOLIC_API_KEY", KEY)
        monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path))
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        yield made
        assert made.of_lambda.complaints == made.of_hyperbolic.complaints == []


def types_in(printed: str) -> list[str]:
    return [one["type"] for one in json.loads(printed)]


def test_the_cheapest_come_first(clouds: Clouds, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "offers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["$/hour", "$/GPU", "account", "type"]
    prices = [float(line.split()[0].lstrip("$")) for line in lines[1:-1]]
    assert prices == sorted(prices) and len(prices) == 9
    assert lines[-1] == "3 more do not fit or are sold out: --all shows them, and why"


@pytest.mark.parametrize(
    ("options", "types"),
    [
        (["--gpus", "8"], ["h100", "gpu_8x_h100_sxm5"]),
        (["--gpus", "0"], ["cpu_4x_general"]),
        (["--type", "gpu_8x_*"], ["gpu_8x_h100_sxm5"]),
        (["--type", "GPU_1X_A10"], ["gpu_1x_a10", "gpu_1x_a10"]),
        (["--model", "h100", "--max-price", "3"], ["h100"]),
        (["--region", "ca-*"], ["h100"]),
        (["--region", "us-west-1"], ["gpu_1x_a10"]),
        (["--account", "hyperbolic"], ["h100", "h100", "h100"]),
        (["--max-price", "$0.69"], ["cpu_4x_general", "gpu_1x_rtx6000"]),
    ],
)
def test_filters(clouds: Clouds, capsys: pytest.CaptureFixture[str], options: list[str], types: list[str]) -> None:
    assert main(["hosts", "offers", "--json", *options]) == 0
    assert types_in(capsys.readouterr().out) == types


def test_all_says_why_not(clouds: Clouds, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "offers", "--all", "--json", "--gpus", "8", "--max-price", "30"]) == 0
    why = {one["id"]: one["excluded"] for one in json.loads(capsys.readouterr().out)}
    assert why["gpu_8x_h100_sxm5@us-east-1"] == "above $30.00 an hour: it costs $31.92"
    assert why["gpu_8x_a100_80gb_sxm4@"] == "sold out in all regions"
    assert why["8x-h100@us-east-1/infiniband"] is None
    assert why["gpu_1x_a10@us-east-1"] == "1 GPUs"


def test_a_price_in_the_wrong_unit_is_excluded(clouds: Clouds, capsys: pytest.CaptureFixture[str]) -> None:
    clouds.of_lambda.cents["gpu_8x_h100_sxm5"] = 31  # dollars, as if they were cents
    assert main(["hosts", "offers", "--all", "--json", "--type", "gpu_8x_h100_sxm5"]) == 0
    [told] = [one["excluded"] for one in json.loads(capsys.readouterr().out) if one["type"] == "gpu_8x_h100_sxm5"]
    assert "the provider's unit of price may have changed" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--type", "gpu_1x_a1O"], "there is no type 'gpu_1x_a1O': did you mean gpu_1x_a10?"),
        (["--region", "us-east1"], "there is no region 'us-east1': did you mean us-east-1?"),
        (["--region", "mars"], "there is no region 'mars': there are ca-east-1, us-east-1, us-east-3, us-west-1"),
        (["--model", "h1000"], "there is no GPU model 'h1000': did you mean H100?"),
        (["--account", "lamda"], "there is no account 'lamda': did you mean lambda?"),
    ],
)
def test_the_nearest_name_is_proposed(
    clouds: Clouds, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert main(["hosts", "offers", *options]) == 2
    assert capsys.readouterr().err == f"aquarat: {told}\n"


def test_a_limit_below_all_prices_names_the_cheapest(clouds: Clouds, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "offers", "--gpus", "8", "--max-price", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("nothing fits for $1.00 an hour or less: the cheapest is h100 in us-east-1 for $25.52\n")


@pytest.mark.parametrize("amount", ["cheap", "0", "-3", "nan", "1e400"])
def test_a_limit_that_is_no_price_is_refused(amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["hosts", "offers", f"--max-price={amount}"])
    assert repr(amount) in capsys.readouterr().err


def test_without_a_key_the_ways_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("LAMBDA_API_KEY", "HYPERBOLIC_API_KEY", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert main(["hosts", "offers"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "set LAMBDA_API_KEY (https://cloud.lambda.ai/api-keys) or HYPERBOLIC_API_KEY" in said


def test_one_wrong_key_hides_no_other_cloud(
    clouds: Clouds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAMBDA_API_KEY", "wrong-canary")
    assert main(["hosts", "offers", "--json"]) == 1
    printed = capsys.readouterr()
    assert len(types_in(printed.out)) == 3
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("aquarat: lambda: Lambda says global/invalid-api-key")
    assert "wrong-canary" not in printed.err


def test_an_outage_is_no_wrong_key(
    clouds: Clouds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clouds.of_lambda.script.add(always("offers", "403 error code 1010"))
    monkeypatch.setattr(hyperbolic, "ADDRESS", f"http://127.0.0.1:{free_port()}")
    assert main(["hosts", "offers"]) == 2
    said = capsys.readouterr().err
    assert "error code: 1010" in said and "cannot be reached" in said and "key" not in said
    assert KEY not in said


def test_what_a_provider_writes_cannot_command_the_terminal(
    clouds: Clouds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = clouds.of_lambda.error(401, "global/invalid-api-key", "\x1b]0;owned\x07 no\nsecond line")
    monkeypatch.setattr(clouds.of_lambda, "fault", lambda effect, verb: bad)
    monkeypatch.delenv("HYPERBOLIC_API_KEY")
    clouds.of_lambda.script.add(Fault("offers", "401", calls=(1,)))
    assert main(["hosts", "offers"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("\n") == 1


RENT = """
accounts:
  work: {cloud: lambda, key: WORK_KEY}
pools:
  small:
    from: [{account: work, types: [gpu_1x_a10, gpu_1x_rtx6000], regions: [us-*]}]
    max_price_per_hour: 1
    hours: 1
"""


def rented_from(home: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (home / "rent.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("WORK_KEY", KEY)


def test_the_accounts_are_those_of_rent_yaml_as_for_renting(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rented_from(tmp_path, monkeypatch, RENT)
    monkeypatch.delenv("LAMBDA_API_KEY")
    assert main(["hosts", "offers", "--json"]) == 0
    assert {one["account"] for one in json.loads(capsys.readouterr().out)} == {"work", "hyperbolic"}
    assert main(["hosts", "offers", "--account", "lambda"]) == 2
    assert "there is no account 'lambda': there are hyperbolic, work" in capsys.readouterr().err


def test_what_a_pool_takes_and_why_it_takes_nothing_else(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rented_from(tmp_path, monkeypatch, RENT)
    assert main(["hosts", "offers", "--pool", "small", "--json"]) == 0
    assert types_in(capsys.readouterr().out) == ["gpu_1x_rtx6000"]
    assert main(["hosts", "offers", "--pool", "small", "--all", "--json"]) == 0
    why = {one["id"]: one["excluded"] for one in json.loads(capsys.readouterr().out)}
    assert why["gpu_1x_a10@us-east-1"] == "above $1.00 an hour (max_price_per_hour): it costs $1.29"
    assert why["gpu_8x_h100_sxm5@us-east-1"] == "no source of the pool takes it"
    assert main(["hosts", "offers", "--pool", "small", "--account", "hyperbolic"]) == 2
    assert "the pool small takes nothing from hyperbolic: there are work" in capsys.readouterr().err
    assert main(["hosts", "offers", "--pool", "smal"]) == 2
    assert "rent.yaml has no pool 'smal': did you mean small?" in capsys.readouterr().err


def test_an_offer_of_a_pool_rests_after_a_host_of_it_was_unfit(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rented_from(tmp_path, monkeypatch, RENT.replace("price_per_hour: 1\n", "price_per_hour: 2\n"))
    world = World(tmp_path, seconds=time.time())
    rental = world.order(pool="small")
    for state, facts in (
        ("asking", {}),
        ("granted", {"instance_id": "i"}),
        ("ending", {"why": "unfit: old driver", "code": "unfit"}),
    ):
        rental = world.ledger.append(rental, state, world.now(), **facts)
    assert main(["hosts", "offers", "--pool", "small", "--all", "--json"]) == 0
    why = {one["id"]: one["excluded"] for one in json.loads(capsys.readouterr().out)}
    assert "it rests until" in why["gpu_1x_a10@us-east-1"] and "old driver" in why["gpu_1x_a10@us-east-1"]
    assert why["gpu_1x_a10@us-west-1"] is None


def test_a_type_that_a_pool_misspells_is_named(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rented_from(tmp_path, monkeypatch, RENT.replace("gpu_1x_a10,", "gpu_1x_a1O,"))
    assert main(["hosts", "offers", "--pool", "small"]) == 0
    assert "work has no type 'gpu_1x_a1O': did you mean gpu_1x_a10?" in capsys.readouterr().err


def test_a_broken_rent_yaml_does_not_hide_the_offers(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rented_from(tmp_path, monkeypatch, RENT.replace("cloud: lambda", "clowd: lambda"))
    assert main(["hosts", "offers", "--json"]) == 1
    printed = capsys.readouterr()
    assert len(types_in(printed.out)) == 9 and "Only accounts with a key in the environment are asked" in printed.err
    monkeypatch.setenv("LAMBDA_API_KEY", "wrong")
    monkeypatch.setenv("HYPERBOLIC_API_KEY", "wrong")
    assert main(["hosts", "offers"]) == 2
    assert "Only accounts with a key in the environment are asked" in capsys.readouterr().err, (
        "said if none answers too"
    )
    assert main(["hosts", "offers", "--pool", "small"]) == 2
