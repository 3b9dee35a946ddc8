"""Which results still stand, and what earlier runs tell of the time that is left."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile
from aquarat_pipeline.assets.history import fresh
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.launching import progress
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
