"""Which results still stand, and what earlier runs tell of the time that is left."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile
from aquarat_pipeline.assets.history import fresh
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.jobs import progress
from aquarat_pipeline.runs import readiness
from aquarat_pipeline.runs.in_process import Terminal, materialize
from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

CHAIN = ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer")


def names(chain: Chain, store_uri: str, **changes: dict) -> set[str]:
    experiment = Experiment(load_profile("demo", changes))
    return set(fresh(chain.instance, ArtifactStore.open(store_uri), experiment, CHAIN))


def test_what_code_config_or_inputs_would_make_otherwise_is_not_fresh(
    chain: Chain, order: Callable[..., None], store_uri: str, tmp_path: Path
) -> None:
    assert names(chain, store_uri) == set()
    assert chain.materialize(*CHAIN).success
    assert names(chain, store_uri) == set(CHAIN)
    assert names(chain, store_uri, tokenizer={"vocab_size": 512}) == set(CHAIN[:3])
    assert names(chain, store_uri, aqua_dataset={"n_train": 77}) == {"chat_datasets", "pretrain_text"}

    assert chain.materialize("aqua_dataset").success
    assert names(chain, store_uri) == set(CHAIN), "the same bytes again"
    order("aqua_dataset", content="other questions")
    assert chain.materialize("aqua_dataset").success
    assert names(chain, store_uri) == set(CHAIN[:3]), "the tokenizer was made from others"

    sha256 = ArtifactStore.open(store_uri).latest("pretrain_text").manifest.files[0].sha256
    (tmp_path / "store/blobs/sha256" / sha256[:2] / sha256).unlink()
    assert names(chain, store_uri) == {"aqua_dataset", "chat_datasets"}, "a file of it is lost"


def test_the_time_left_is_known_from_runs_of_the_same_config_alone(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = tmp_path / "shown"
    with shown.open("w") as stream:
        monkeypatch.setattr(progress, "TERMINAL", stream.fileno())

        def said(**config: dict) -> list[str]:
            before = len(shown.read_text())
            assert chain.materialize(*CHAIN[:2], config=config).success
            return re.findall(r"stage \d of \d.*", shown.read_text()[before:])

        assert said() == ["stage 1 of 2", "stage 2 of 2"]
        again = said()
        assert [re.sub(r"\d+ s", "N s", line) for line in again] == [
            "stage 1 of 2, about N s left",
            "stage 2 of 2, about N s left",
        ]
        other = said(aqua_dataset={"n_train": 77})
        assert other[0] == "stage 1 of 2" and other[1].startswith("stage 2 of 2, about ")


def test_a_run_is_checked_once_where_one_process_creates_and_executes_it(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said then is in the run's events too, for the UI."""
    monkeypatch.setenv("DAGSTER_MODULE_NAME", toy_definitions.__name__)
    # The module's own were made before the store of this test was chosen.
    monkeypatch.setattr(toy_definitions, "defs", chain.defs)
    checks: list[str] = []
    check = readiness.check

    def counted(home: Path, plan: Plan, say: Callable[[str], None]) -> None:
        checks.append(plan.store)
        check(home, plan, say)

    monkeypatch.setattr(readiness, "check", counted)
    shown = io.StringIO()
    outcome = materialize(Terminal(io.StringIO(), shown, tmp_path / "log"), chain.instance, ["aqua_dataset"])
    assert list(outcome.artifacts) == ["aqua_dataset"] and len(checks) == 1
    (run,) = chain.instance.get_runs()
    events = [entry.dagster_event.message for entry in chain.instance.all_logs(run.run_id) if entry.dagster_event]
    said = [line for line in shown.getvalue().splitlines() if line.startswith(("hosts:", "store:"))]
    assert len(said) == 2 and set(said) <= set(events)
