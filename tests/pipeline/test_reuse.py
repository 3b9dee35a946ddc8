"""What a launch says about stages that are not reused: the nearest earlier artifact, and what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.artifacts.names import give
from aquarat_core.config import load_profile, override
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.assets import reuse
from aquarat_pipeline.assets.history import Fresh, latest_data_version, standing
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.assets.reuse import Earlier
from aquarat_pipeline.assets.sharing import take
from aquarat_pipeline.experiments import Experiment
from tests.pipeline import toy_definitions
from tests.pipeline.terminal import Shell
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

DATA = ("aqua_dataset", "chat_datasets", "pretrain_text")
Says = Callable[..., list[str]]


@pytest.fixture
def says(chain: Chain) -> Says:
    """What a launch of those stages with other settings would say."""

    def lines(*names: str, **changes: dict[str, object]) -> list[str]:
        experiment = Experiment(override(load_profile("demo"), changes))
        return list(reuse.lines(chain.instance, Plan.of(names, experiment, {}, {})))

    return lines


def test_nothing_is_said_of_a_stage_that_was_never_made(says: Says) -> None:
    assert says(*DATA, "tokenizer") == []


def test_the_nearest_artifact_and_what_differs(chain: Chain, says: Says, store_uri: str) -> None:
    assert chain.materialize(*DATA, "tokenizer").success
    store = ArtifactStore.open(store_uri)
    first = store.latest("tokenizer")
    assert chain.materialize("tokenizer", config={"tokenizer": {"vocab_size": 600, "max_chars": 5_000_000}}).success
    second = store.latest("tokenizer")
    assert first is not None and second is not None and first != second

    (line,) = says("tokenizer", tokenizer={"vocab_size": 700})
    assert line == (f"not reused: tokenizer; nearest is {first.sha256[:8]}, which differs in vocab_size 1024 -> 700"), (
        "one field is nearer than two"
    )
    give(second, "small-one")
    (line,) = says("tokenizer", tokenizer={"vocab_size": 650, "max_chars": 5_000_000})
    assert f"nearest is {second.sha256[:8]} (small-one), which differs in vocab_size 600 -> 650" in line
    (line,) = says("tokenizer")
    assert line == f"not reused: tokenizer, though {first.sha256[:8]} has the same settings, code and inputs"
    line = says(*DATA, "tokenizer")[-1]
    assert line.startswith(f"not reused: tokenizer; nearest is {first.sha256[:8]}, which differs in ")
    assert all(f"{name} (made anew)" in line for name in DATA)


def test_other_code_and_other_data_are_named(
    chain: Chain, says: Says, order: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chain.materialize(*DATA, "tokenizer").success
    order("aqua_dataset", content="other rows")
    assert chain.materialize("aqua_dataset").success
    assert says("tokenizer")[0].endswith("which differs in aqua_dataset (other data)")
    monkeypatch.setattr(reuse, "code_version", lambda stage, section: "another")
    assert says("tokenizer")[0].endswith("which differs in the code, aqua_dataset (other data)")


def test_what_another_chain_made_is_found_and_taken(
    instance, store_uri: str, order: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = Experiment(override(load_profile("demo"), {"rl_checkpoint": {"steps": 7}}), "wide")
    chain = Chain(instance, toy_definitions.build(named=[wide]))
    assert chain.materialize(*DATA, "tokenizer").success
    store = ArtifactStore.open(store_uri)
    earlier = Earlier(instance, store)

    def same(name: str, experiment: Experiment = wide):
        stage = STAGES[name]
        section = stage.config(experiment.profile)
        inputs = {parent: latest_data_version(instance, experiment.key(parent)) for parent in stage.needs(section)}
        return earlier.same(experiment, stage, section, inputs)

    assert same("tokenizer") is None, "its inputs are not there yet"
    for name in (*DATA, "tokenizer"):
        found = same(name)
        assert found is not None and found.sha256 == store.latest(name).sha256
        take(instance, store, wide, STAGES[name], found)
        section = STAGES[name].config(wide.profile)
        assert isinstance(standing(instance, store, wide, STAGES[name], section), Fresh)
        assert chain.latest(f"wide/{name}").metadata["manifest_sha256"].value == found.sha256
    other = replace(wide, profile=override(wide.profile, {"tokenizer": {"vocab_size": 700}}))
    assert same("tokenizer", other) is None
    store.backend.delete(next(iter(store.backend.keys("blobs/"))))
    assert any(same(name) is None for name in (*DATA, "tokenizer")), "what is not complete is not taken"


@pytest.mark.timeout(600)
def test_the_line_is_printed_where_people_launch(root, tmp_path) -> None:
    shell = Shell(root, tmp_path)
    ours, dagsters = (
        ("aquarat_core.cli", "materialize", "aqua_dataset"),
        ("dagster", "asset", "materialize", "--select"),
    )
    out = shell.run(*ours)
    assert out.returncode == 0 and "not reused" not in out.stderr, out.stderr
    out = shell.run(*ours, "--set", "aqua_dataset.n_train=77")
    assert "not reused: aqua_dataset; nearest is " in out.stderr and "n_train 8000 -> 77" in out.stderr, out.stderr
    out = shell.run(*dagsters, "aqua_dataset")
    assert " not reused: aqua_dataset, though " in out.stderr and "the same settings, code and inputs" in out.stderr
    out = shell.run("aquarat_core.cli", "plan", "aqua_dataset", "--set", "aqua_dataset.n_train=78")
    assert "not reused: aqua_dataset; nearest is " in out.stdout
