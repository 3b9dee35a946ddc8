"""What an asset's page says: description, tags, links to the code, cost, and the first rows of a data set."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from aquarat_core.config import load_profile
from aquarat_core.stages.registry import STAGES, used_stages
from aquarat_pipeline.assets import about
from aquarat_pipeline.assets.automation import automation, freshness
from aquarat_pipeline.assets.cost import cost, cost_facts
from aquarat_pipeline.assets.numbers import numbers
from aquarat_pipeline.assets.preview import markdown_table, row_count
from aquarat_pipeline.jobs.spending import Spent
from aquarat_pipeline.jobs.usage import HostUse, Use
from aquarat_pipeline.renting.money import ZERO, Money


@pytest.mark.parametrize("profile", ["demo", "d12"])
def test_every_description_says_what_how_at_what_cost_and_where(root: Path, profile: str) -> None:
    loaded = load_profile(profile)
    described = about.About(loaded)
    for name in used_stages(loaded):
        stage = STAGES[name]
        what, how, price, where = described.description(stage).split("\n\n")
        assert what.startswith(stage.description)
        assert how.startswith("**How:** ") and how.endswith(".")
        assert price.startswith(f"**Cost** under profile {profile}: ") and price.endswith(".")
        assert (root / where.removeprefix("**Code:** `").removesuffix("`")).is_file()


def test_the_cost_of_training_is_in_gpu_hours_where_gpus_train() -> None:
    base = STAGES["base_checkpoint"]
    demo, tiny, d12 = (about.About(load_profile(name)) for name in ("demo", "tiny", "d12"))
    assert "of one H100 at 38% of its peak" in d12.description(base)
    assert "H100" not in demo.description(base)
    assert d12.tags(base) == {"stage": "base", "cost": "gpu"}
    assert demo.tags(base) == {"stage": "base", "cost": "cpu"}
    assert tiny.tags(STAGES["aqua_dataset"]) == {"stage": "data", "cost": "network"}


def test_the_code_reference_leads_to_the_function(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "remote_page", lambda: "https://github.com/me/mine/blob/c0de")
    for stage in STAGES.values():
        local, url = about.code_references(stage)["dagster/code_references"].code_references
        line = Path(local.file_path).read_text().splitlines()[local.line_number - 1]
        assert line.startswith(f"def {stage.entry.partition(':')[2]}(")
        file = Path(local.file_path).relative_to(root)
        assert url.url == f"https://github.com/me/mine/blob/c0de/{file}#L{local.line_number}"


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://user:secret@github.com/me/mine.git", "https://github.com/me/mine/blob/"),
        ("git@github.com:me/mine.git", "https://github.com/me/mine/blob/"),
        ("ssh://git@gitlab.example.com:22/group/mine", "https://gitlab.example.com/group/mine/-/blob/"),
        ("/srv/git/mine.git", None),
        (None, None),
    ],
)
def test_the_page_of_the_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str | None, page: str | None
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    if remote:
        git("remote", "add", "origin", remote)
    monkeypatch.setattr(about, "REPO_ROOT", tmp_path)
    about.remote_page.cache_clear()
    try:
        assert about.remote_page() == (f"{page}{git('rev-parse', 'HEAD')}" if page else None)
    finally:
        about.remote_page.cache_clear()


def manifest(hardware: dict[str, Any], seconds: float | None) -> Any:
    return SimpleNamespace(metrics={} if seconds is None else {"seconds": seconds}, hardware=hardware)


def use(*hosts: HostUse, attempt: int = 1, began: float = 0.0, seconds: float = 1800.0) -> Use:
    return Use(attempt=attempt, began=began, ended=began + seconds, hosts=hosts)


def test_the_cost_of_an_artifact_names_the_machine_and_the_price() -> None:
    gpus = {"gpus": 8, "gpu": "NVIDIA A100"}
    one, two = (HostUse(host=name, gpus=8, price_micros=12_000_000) for name in ("a100-1", "a100-2"))
    spent = Spent((use(one),), 9e9, own=Money.dollars(6))
    assert cost(manifest(gpus, 1800.0), spent) == "30 min on a100-1, 8 x NVIDIA A100, $6.00 by price_per_hour"
    spent = Spent((use(one), use(two, attempt=2, began=2000.0, seconds=3600.0)), 9e9, own=Money.dollars(18))
    text = cost(manifest(gpus, 3600.0), spent)
    assert text == "1.5 h in 2 attempts on a100-1, a100-2, 8 x NVIDIA A100, $18.00 by price_per_hour"
    free = Spent((use(HostUse(host="gone", gpus=8), seconds=60.0),), 9e9)
    assert cost(manifest(gpus, 60.0), free) == "60 s on gone, 8 x NVIDIA A100"
    rented = Spent((use(HostUse(host="r1", gpus=8, rental="abcdefgh")),), 9e9, ZERO, Money.dollars(6), Money.dollars(2))
    assert cost(manifest(gpus, 1.0), rented).endswith("8 x NVIDIA A100, $6.00 and $2.00 of overhead by our own count")
    cpu = {"cores": 2, "cpu": "AMD EPYC"}
    assert cost(manifest(cpu, 20.0), None) == "20 s on this machine, 2 cores of AMD EPYC"
    assert cost(manifest(cpu, None), None) == ""


def test_the_cost_is_also_there_in_numbers() -> None:
    one = HostUse(host="a100-1", gpus=8, price_micros=12_000_000)
    spent = Spent((use(one),), 9e9, own=Money(6_000_001))
    assert cost_facts(spent) == {
        "host": "a100-1", "hours": 0.5, "gpu_hours": 4.0, "cost_usd": 6.000001, "cost_overhead_usd": 0.0
    }  # fmt: skip
    free = Spent((use(HostUse(host="local", gpus=0)),), 9e9)
    assert cost_facts(free) == {"host": "this machine", "hours": 0.5, "gpu_hours": 0.0}, "no price is not $0"


def test_few_numbers_are_plotted_and_they_have_units() -> None:
    metrics = {"accuracy": 0.89912345, "n": 2000, "seconds": 90.0, "val_loss": 1.23456, "padding_share": 0.1}
    assert numbers(metrics) == {
        "number/accuracy (%)": 89.91,
        "number/validation loss (nats per token)": 1.235,
        "number/duration (minutes)": 1.5,
    }


def test_rows_are_counted_over_all_splits() -> None:
    aqua = {"rows_train": 8000, "rows_validation": 512, "rows_test": 2000, "bytes_train": 9, "train_share_A": 0.2}
    assert row_count(aqua) == 10512
    assert row_count({"drills_train": 100, "drills_test": 20, "identity_train": 5, "seconds": 0.5}) == 125
    assert row_count({"train_documents": 7, "validation_documents": 2, "train_bytes": 999, "blank_documents": 3}) == 9
    assert row_count({"train_loss": 0.5}) is None


def test_a_cell_of_a_preview_is_only_text() -> None:
    hostile = "![x](https://evil.example/?c) <img src=x> | `a` \x1b[2J\n# head"
    header, rule, row = markdown_table([{"question": hostile, "n": 1}]).split("\n")
    assert (header, rule) == ("| question | n |", "| --- | --- |")
    assert row == (r"| \!\[x\]\(https://evil.example/?c\) \<img src=x\> \| \`a\` \\u001b\[2J\\n\# head | 1 |")
    assert len(markdown_table([{"long": "x" * 999}]).split("\n")[2]) < 180


def test_only_cheap_assets_are_automatic_and_only_reports_get_old() -> None:
    automatic = {name for name, stage in STAGES.items() if automation(stage) is not None}
    assert automatic == {"pipeline_report"}
    aging = {name for name, stage in STAGES.items() if freshness(stage) is not None}
    assert aging == {name for name, stage in STAGES.items() if stage.kind == "report"}
    policy = freshness(STAGES["rl_eval_report"])
    assert isinstance(policy, dg.FreshnessPolicy)
