"""rent.yaml: what it may say, and what is said about what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from aquarat_pipeline.renting.config import (
    AccountSettings,
    Limits,
    Pool,
    RentConfig,
    RentConfigError,
    Source,
    dollars,
    read_config,
)
from aquarat_pipeline.renting.money import Money
from tests.renting.small_cloud import A10

GOOD = """
accounts:
  lambda:     {cloud: lambda, key: LAMBDA_API_KEY, per_day: 300, per_month: 1500.50, max_rentals: 2}
  hyperbolic: {cloud: hyperbolic, key: HYPERBOLIC_API_KEY, per_month: 400}
pools:
  h100:
    from:
      - {account: lambda, types: [gpu_8x_h100_sxm5], regions: [us-*], image: ubuntu-lts}
      - {account: hyperbolic, gpus: 8, models: [h100], forward: []}
    max_price_per_hour: 34
    hours: 8
    automatic: true
    env: {NCCL_DEBUG: WARN}
    forward: [WANDB_API_KEY]
"""


def config(tmp_path: Path, text: str) -> RentConfig:
    (tmp_path / "rent.yaml").write_text(text)
    return read_config(tmp_path)


def test_the_example_is_right_and_shows_every_setting(root: Path, tmp_path: Path) -> None:
    found = config(tmp_path, (root / "dagster_home/rent.example.yaml").read_text())
    (pool,) = found.pools.values()
    shown = {name for account in found.accounts.values() for name in account.model_fields_set}
    assert shown == set(AccountSettings.model_fields) and pool.model_fields_set == set(Pool.model_fields)
    assert pool.sources[0].model_fields_set == set(Source.model_fields)
    assert found.limits.model_fields_set == set(Limits.model_fields) and found.limits == Limits()


def test_a_whole_file(tmp_path: Path) -> None:
    found = config(tmp_path, GOOD)
    assert found.accounts["lambda"].per_month == Money.dollars("1500.50")
    pool = found.pool("h100")
    assert pool.max_price_per_hour == Money.dollars(34) and pool.longest == 8 and pool.automatic
    assert found.account("hyperbolic").key_variable == "HYPERBOLIC_API_KEY"
    phases = found.limits.phases(pool.idle_minutes)
    assert (phases.boot, phases.idle, phases.prepare) == (1200, 600, 1800)


def test_without_a_file_nothing_is_configured(tmp_path: Path) -> None:
    assert read_config(tmp_path) == RentConfig()
    assert config(tmp_path, "") == RentConfig()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cloud: lambda,", "cloud: lamda,", "accounts.lambda.cloud: there is no cloud 'lamda': did you mean lambda?"),
        ("key: LAMBDA_API_KEY", "key: secret_f00d", "accounts.lambda.key: write the name of the variable"),
        ("per_day: 300", "per_day: -1", "accounts.lambda.per_day: an amount of money must be above 0"),
        ("per_day: 300", "per_day: .inf", "accounts.lambda.per_day: 'inf' is not an amount of money"),
        ("per_day: 300", "per_day: true", "accounts.lambda.per_day: write an amount in dollars"),
        ("per_day: 300", "per_day: 0.0000001", "finer than a millionth"),
        ("per_day: 300", "per_week: 300", "accounts.lambda.per_week: there is no such setting: there are address, "),
        ("per_day: 300", "perday: 300", "accounts.lambda.perday: there is no such setting: did you mean per_day?"),
        ("account: hyperbolic", "account: hyperbol", "there is no account 'hyperbol': did you mean hyperbolic?"),
        ("max_price_per_hour: 34", "max_price_per_hour: 3400", "outside $0.40 to $160.00 per GPU-hour"),
        ("hours: 8", "hours: 9", "9 h at $34.00 are $306.00, which accounts.lambda.per_day ($300.00) never allows"),
        ("hours: 8", "hours: .nan", "pools.h100.hours"),
        ("hours: 8", "hours: 8\n    most_hours: 7", "most_hours is 7, which is less than hours (8)"),
        ("hours: 8", "hours: 8\n    hours: 9", "'hours' is given twice"),
        (", per_month: 400", "", "pools.h100 is automatic, but accounts.hyperbolic has neither per_day nor per_month"),
        ("automatic: true", "automatic: true\n    per_run: 100", "pools.h100.per_run ($100.00) never allows"),
        ("automatic: true", "max_gpu_price: 400", "max_gpu_price is $400.00 per GPU-hour: dollars are meant"),
        ("    from:", "    form:", "pools.h100.from: Field required"),
        ("pools:", "pools: [", "rent.yaml"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_values_of_keys(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    with pytest.raises(RentConfigError) as e:
        config(tmp_path, GOOD.replace(old, new))
    text = str(e.value)
    assert said.replace("$0.40 to $160.00", "$0.05 to $20.00") in text
    assert "secret_f00d" not in text and "rent.yaml" in text


@pytest.mark.parametrize(("given", "micros"), [(34, 34_000_000), (31.92, 31_920_000), ("0.000001", 1), (1e-6, 1)])
def test_amounts_are_exact(given: object, micros: int) -> None:
    assert dollars(given) == Money(micros)


def test_what_a_source_takes(tmp_path: Path) -> None:
    text = "accounts: {a: {cloud: lambda}}\npools: {p: {from: [{account: a, %s}], max_price_per_hour: 2, hours: 1}}"
    for taken, source in (
        (True, "types: ['gpu_1x_*']"),
        (True, "regions: [us-*], models: [a10], gpus: 1"),
        (False, "types: [gpu_1x_a100]"),
        (False, "regions: [eu-*]"),
        (False, "gpus: 2"),
        (False, "models: [h100]"),
    ):
        (one,) = config(tmp_path, text % source).pool("p").sources
        assert one.takes(A10) is taken, source
