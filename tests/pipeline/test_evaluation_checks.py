"""Checks that compare a report with the previous one, and what a failed blocking check prevents."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile
from aquarat_core.stages.registry import CHECKPOINTS
from aquarat_pipeline.checks.evaluation import _trained_on
from aquarat_pipeline.runs.in_process import RunFailedError, Terminal, materialize
from tests.evaluation.conftest import Chain as Reports
from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

DATA = ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens")
SCORES = {"n": 200, "accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "constant_letter_accuracy": 0.2}


@pytest.fixture
def rates(order: Callable[..., None]) -> Callable[..., None]:
    """Gives the reports of phases these parse rates from now on."""

    def give(**phases: float) -> None:
        for phase, rate in phases.items():
            order(f"{phase}_eval_report", metrics={**SCORES, "parse_rate": rate}, content=f"{phase} {rate}")

    return give


def verdicts(result: dg.ExecuteInProcessResult, name: str) -> dict[str, tuple[bool, str]]:
    """Of each report: whether the check passed, and its sentence."""
    found = [e for e in result.get_asset_check_evaluations() if e.check_name == name]
    return {e.asset_key.to_user_string(): (e.passed, e.description or "") for e in found}


def made(result: dg.ExecuteInProcessResult) -> list[str]:
    return [e.asset_key.to_user_string() for e in result.get_asset_materialization_events()]


def test_what_a_phase_has_been_trained_on() -> None:
    profile = load_profile("demo")
    assert _trained_on(profile, "base_eval_report") == set()
    assert "aqua" in _trained_on(profile, "mid_eval_report") and "aqua" in _trained_on(profile, "rl_eval_report")


def test_a_collapse_holds_back_what_is_made_from_the_report(chain: Chain, rates: Callable[..., None]) -> None:
    rates(base=0.0, mid=0.8, sft=0.95, rl=0.97)
    assert chain.materialize(*DATA, *CHECKPOINTS).success
    reports = ("base_eval_report", "mid_eval_report", "sft_eval_report", "rl_eval_report", "pipeline_report")
    first = chain.materialize(*reports)
    assert first.success and made(first) == list(reports)
    found = verdicts(first, "parse_rate_holds")
    assert all(passed for passed, _ in found.values())
    assert found["base_eval_report"][1].startswith("0.0% [0.0, 1.9] of 200 answers can be read; there is no previous")

    rates(sft=0.3)
    second = chain.materialize(*reports)
    assert not second.success
    assert made(second) == ["base_eval_report", "mid_eval_report", "sft_eval_report"], "nothing is made from it"
    passed, said = verdicts(second, "parse_rate_holds")["sft_eval_report"]
    assert not passed and said.startswith("Only 30.0% [24.1, 36.7] of 200 answers can be read, after 95.0% [")
    assert verdicts(second, "parse_rate_holds")["base_eval_report"][0]

    rates(sft=0.31)
    assert chain.materialize(*reports).success, "the previous report is the collapsed one now"


def test_no_readable_answer_is_a_collapse_of_what_was_trained_on_them(
    chain: Chain, rates: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates(base=0.4, mid=0.0)
    assert chain.materialize(*DATA, *CHECKPOINTS[:2], "base_eval_report").success
    failed = chain.materialize("mid_eval_report")
    passed, said = verdicts(failed, "parse_rate_holds")["mid_eval_report"]
    assert not failed.success and not passed and said.startswith("None of 200 answers can be read")
    rates(base=0.0)
    lost = chain.materialize("base_eval_report")
    assert not lost.success and not verdicts(lost, "parse_rate_holds")["base_eval_report"][0]

    with pytest.MonkeyPatch.context() as patch:
        mine = load_profile("demo", {"rl_checkpoint": {"min_parse_rate": 0}})
        patch.setattr(toy_definitions, "load_profile", lambda _: mine)
        accepting = Chain(chain.instance, toy_definitions.build())
    warned = accepting.materialize("mid_eval_report")
    assert warned.success and not verdicts(warned, "parse_rate_holds")["mid_eval_report"][0]


def test_the_projects_executor_holds_back_too_and_the_terminal_says_why(
    chain: Chain, rates: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_MODULE_NAME", toy_definitions.__name__)
    # The module's own were made before the store of this test was chosen.
    monkeypatch.setattr(toy_definitions, "defs", chain.defs)
    rates(base=0.0, mid=0.0)
    assert chain.materialize(*DATA, *CHECKPOINTS[:3]).success
    user = Terminal(io.StringIO(), io.StringIO(), tmp_path / "log")
    with pytest.raises(RunFailedError, match="asset check parse_rate_holds of mid_eval_report failed: None of 200 ans"):
        materialize(user, chain.instance, ["base_eval_report", "mid_eval_report", "sft_eval_report"])
    made = {key.to_user_string() for key in chain.instance.get_asset_keys()}
    assert "mid_eval_report" in made and chain.instance.get_latest_materialization_event(
        dg.AssetKey("sft_eval_report")
    ) is None  # fmt: skip


def test_a_report_that_is_worse_than_the_last_warns(
    chain: Chain, order: Callable[..., None], tmp_path: Path, store_uri: str
) -> None:
    reports = Reports(ArtifactStore.open(f"file://{tmp_path}/other"), tmp_path / "scratch")
    reports.train("base")

    def report(accuracy: float, asked: int = 400) -> tuple[bool, str]:
        reports.evaluate("base", reports.answers(reports.asked[:asked], accuracy))
        folder, _ = reports.folders("base_eval_report")
        scores = {**SCORES, "n": asked, "parse_rate": 1.0}
        order("base_eval_report", metrics=scores, folder=str(folder))
        result = chain.materialize("base_eval_report")
        assert result.success, "it warns"
        return verdicts(result, "not_worse_than_last")["base_eval_report"]

    assert chain.materialize(*DATA, "base_checkpoint").success
    assert report(0.6) == (True, "This is the first report of this asset.")
    passed, said = report(0.3)
    assert not passed and said.startswith("this report is worse than the previous report: -")
    passed, said = report(0.31)
    assert passed and said.startswith("No difference between this report and the previous report is shown")
    passed, said = report(0.1, asked=200)
    assert passed and "200 question ids are in one evaluation only (400 and 200 questions)" in said
    store = ArtifactStore.open(store_uri)
    store.backend.delete(f"manifests/{store.latest('base_eval_report').sha256}.json")
    passed, said = report(0.05, asked=200)
    assert passed and said.startswith("Not compared with the previous report: ")
