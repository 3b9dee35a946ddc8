"""Lineage as Dagster tells it: what is stale and why, and which SFT checkpoint fed an RL run, whatever came after."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from unittest import mock

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.stage import Stage
from aquarat_pipeline.assets.inputs import Pinned, pin_inputs
from aquarat_pipeline.assets.metadata import CONSOLE, _place
from aquarat_pipeline.assets.retention import needed_manifests
from aquarat_pipeline.experiments import Experiment
from tests.pipeline import toy_definitions
from tests.pipeline.graphql import served
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

TO_SFT = ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens", "base_checkpoint",
          "mid_checkpoint", "sft_checkpoint")  # fmt: skip


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """The toy chain with everything up to SFT materialized, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("lineage")
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test(temp_dir=str(folder / "home")) as instance:
        patch.setenv("AQUARAT_STORE", f"file://{folder}/store")
        patch.setenv("AQUARAT_CACHE", f"{folder}/cache")
        made = Chain(instance, toy_definitions.build())
        assert made.materialize(*TO_SFT).success
        yield made


@pytest.fixture
def store(chain: Chain) -> ArtifactStore:
    return ArtifactStore.open(os.environ["AQUARAT_STORE"])


@pytest.fixture
def sft(chain: Chain, order: Callable[..., None]) -> Callable[[str], dg.AssetMaterialization]:
    """`sft(weights)` makes another SFT checkpoint and gives its materialization."""

    def make(weights: str) -> dg.AssetMaterialization:
        order("sft_checkpoint", content=weights)
        assert chain.materialize("sft_checkpoint").success
        return chain.latest("sft_checkpoint")

    return make


STALE = """
query Stale($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { staleStatus staleCauses { category reason key { path } } } }
}"""


def staleness(instance: dg.DagsterInstance, defs: dg.Definitions, name: str) -> tuple[str, list[tuple[str, str]]]:
    """Status and causes (category, asset that causes it) of an asset, as the instance and GraphQL both say."""
    graph = defs.resolve_asset_graph()
    key = dg.AssetKey(name)
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    status = resolver.get_status(key).value
    causes = [(c.category.value, c.asset_key.to_user_string()) for c in resolver.get_stale_root_causes(key)]
    with served(instance, defs) as dagster:
        node = dagster.ask(STALE, key={"path": [name]})["assetNodeOrError"]
    assert node["staleStatus"] == status
    assert [(c["category"], "/".join(c["key"]["path"])) for c in node["staleCauses"]] == causes
    return status, causes


def pair(code: str | None, weights: str | None, rl_code: str | None = "rl") -> dg.Definitions:
    """SFT and RL as plain assets. `code` is SFT's code version; with `weights` it has a data version of its own."""

    @dg.asset(code_version=code)
    def sft() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion(weights) if weights else None)

    @dg.asset(deps=[sft], code_version=rl_code)
    def rl() -> None: ...

    return dg.Definitions([sft, rl])


def run(instance: dg.DagsterInstance, defs: dg.Definitions, *names: str) -> None:
    job = defs.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(name) for name in names]
    assert job.execute_in_process(instance=instance, asset_selection=keys).success


FRESH = ("FRESH", [])


@pytest.mark.parametrize(
    ("code", "weights", "weights_again", "after_rerun"),
    [
        pytest.param(None, None, None, ("STALE", [("DATA", "sft")]), id="neither version"),
        pytest.param("1", None, None, FRESH, id="code version only: fresh although the weights differ"),
        pytest.param("1", "w1", "w1", FRESH, id="both, the same bytes"),
        pytest.param("1", "w1", "w2", ("STALE", [("DATA", "sft")]), id="both, other bytes"),
    ],
)
def test_what_dagster_calls_stale_when_sft_ran_again(
    instance: dg.DagsterInstance, code: str | None, weights: str | None, weights_again: str | None, after_rerun: tuple
) -> None:
    """The column "RL after re-running SFT" of the staleness matrix, and why the factory sets both versions."""
    run(instance, pair(code, weights), "sft", "rl")
    assert staleness(instance, pair(code, weights), "rl") == FRESH
    run(instance, pair(code, weights_again), "sft")
    assert staleness(instance, pair(code, weights_again), "rl") == after_rerun
    run(instance, pair(code, weights_again), "rl")
    assert staleness(instance, pair(code, weights_again), "rl") == FRESH


@pytest.mark.parametrize("weights", [None, "w1"], ids=["code version only", "both"])
def test_what_dagster_calls_stale_when_sft_code_changed(instance: dg.DagsterInstance, weights: str | None) -> None:
    """The other column: SFT is stale itself, RL is not, for what fed it is still what SFT last made."""
    run(instance, pair("1", weights), "sft", "rl")
    assert staleness(instance, pair("2", weights), "sft") == ("STALE", [("CODE", "sft")])
    assert staleness(instance, pair("2", weights), "rl") == FRESH


def test_what_dagster_calls_stale_when_code_versions_come_late(instance: dg.DagsterInstance) -> None:
    """The matrix's first row there: SFT was made without versions, and is stale as soon as its code has one.

    RL has nothing to be stale for until SFT has run again; then any bytes are other bytes.
    """
    run(instance, pair(None, None), "sft", "rl")
    for code in ("1", "2"):
        assert staleness(instance, pair(code, None), "sft") == ("STALE", [("CODE", "sft")])
        assert staleness(instance, pair(code, None), "rl") == FRESH
    run(instance, pair("2", None), "sft")
    assert staleness(instance, pair("2", None), "sft") == FRESH
    assert staleness(instance, pair("2", None), "rl") == ("STALE", [("DATA", "sft")])
    run(instance, pair("2", None), "rl")
    assert staleness(instance, pair("2", None), "rl") == FRESH


def test_the_real_assets_have_both_versions_and_so_the_last_row(chain: Chain, sft: Callable) -> None:
    sft("weights one")
    assert chain.materialize("rl_checkpoint").success
    for name in ("sft_checkpoint", "rl_checkpoint"):
        assert staleness(chain.instance, chain.defs, name) == FRESH

    def changed(stage: Stage, section: object) -> str:
        version = code_version(stage, section)
        return f"changed-{version}" if stage.name == "sft_checkpoint" else version

    with mock.patch("aquarat_pipeline.assets.stage.code_version", changed):
        other = toy_definitions.build()
    assert staleness(chain.instance, other, "sft_checkpoint") == ("STALE", [("CODE", "sft_checkpoint")])
    assert staleness(chain.instance, other, "rl_checkpoint") == FRESH

    sft("weights one")
    assert staleness(chain.instance, chain.defs, "rl_checkpoint") == FRESH, "the same bytes from another run"
    sft("weights two")
    assert staleness(chain.instance, chain.defs, "rl_checkpoint") == ("STALE", [("DATA", "sft_checkpoint")])


WHICH_SFT = """
query WhichSFT($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetMaterializations(limit: 1) {
      runId
      tags { key value }
      metadataEntries {
        label
        ... on PipelineRunMetadataEntry { runId }
        ... on AssetMetadataEntry { assetKey { path } }
        ... on PathMetadataEntry { path }
        ... on UrlMetadataEntry { url }
        ... on TextMetadataEntry { text }
      }
    }
  } }
}"""
BY_TAG = """
query ByTag($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results { runId } } } }
"""


def test_graphql_tells_which_sft_checkpoint_fed_an_rl_run(chain: Chain, sft: Callable, store: ArtifactStore) -> None:
    fed = sft("weights that feed")
    sft_run = chain.instance.fetch_materializations(dg.AssetKey("sft_checkpoint"), limit=1).records[0].run_id
    rl = chain.materialize("rl_checkpoint")
    sft("weights that come later")
    version = fed.tags["dagster/data_version"]
    with served(chain.instance, chain.defs) as dagster:
        node = dagster.ask(WHICH_SFT, key={"path": ["rl_checkpoint"]})["assetNodeOrError"]
        runs = dagster.ask(BY_TAG, filter={"tags": [{"key": "aquarat/input/sft_checkpoint", "value": version}]})
    (event,) = node["assetMaterializations"]
    tags = {tag["key"]: tag["value"] for tag in event["tags"]}
    entries = {entry["label"]: entry for entry in event["metadataEntries"]}
    assert rl.success and event["runId"] == rl.run_id
    assert tags["dagster/input_data_version/sft_checkpoint"] == version
    assert entries["input/sft_checkpoint"]["assetKey"] == {"path": ["sft_checkpoint"]}
    assert entries["input/sft_checkpoint/run"]["runId"] == sft_run
    inputs = [row.data for row in chain.latest("rl_checkpoint").metadata["inputs"].records]
    (named,) = [row for row in inputs if row["input"] == "sft_checkpoint"]
    assert named["data version"] == version
    assert named["manifest"] == store.manifest_uri(fed.metadata["manifest_sha256"].value)
    assert entries["uri"]["path"] == store.manifest_uri(entries["manifest_sha256"]["text"])
    assert "console" not in entries, "a directory has no page"
    assert [r["runId"] for r in runs["runsOrError"]["results"]] == [rl.run_id]


def test_an_artifact_in_a_bucket_has_a_page_in_the_console() -> None:
    place = _place("gs://bucket/some where/manifests/ab.json")
    assert place["uri"] == dg.MetadataValue.path("gs://bucket/some where/manifests/ab.json")
    assert place["console"] == dg.MetadataValue.url(f"{CONSOLE}/bucket/some%20where/manifests/ab.json")


def test_a_step_taken_up_again_names_the_sft_it_started_from(chain: Chain, sft: Callable, store: ArtifactStore) -> None:
    """A host that takes a step over, or a second attempt, finds the choice of the first one, to the end."""
    first = sft("weights at the start")
    between: list[dg.AssetMaterialization] = []
    another = chain.instance.create_run_for_job(chain.defs.resolve_implicit_global_asset_job_def())

    def start_twice(
        instance: dg.DagsterInstance, stage: Stage, names: Iterable[str], run_id: str, experiment: Experiment
    ) -> dict[str, Pinned]:
        chosen = pin_inputs(instance, stage, names, run_id, experiment)
        if stage.name == "rl_checkpoint":
            # The step has chosen its inputs and is lost; somebody makes another SFT; the step is taken up again.
            between.append(sft("weights meanwhile"))
            again = pin_inputs(instance, stage, names, run_id, experiment)
            assert again == chosen
            fresh = pin_inputs(instance, stage, names, another.run_id, experiment)
            assert fresh["sft_checkpoint"].storage_id > again["sft_checkpoint"].storage_id
            return again
        return chosen

    with mock.patch("aquarat_pipeline.assets.stage.pin_inputs", start_twice):
        assert chain.materialize("rl_checkpoint").success
    assert len(between) == 1 and between[0].metadata["manifest_sha256"] != first.metadata["manifest_sha256"]
    event = chain.latest("rl_checkpoint")
    assert event.tags["dagster/input_data_version/sft_checkpoint"] == first.tags["dagster/data_version"]
    parents = {p.asset: p for p in store.get(event.metadata["manifest_sha256"].value).manifest.parents}
    assert parents["sft_checkpoint"].manifest_sha256 == first.metadata["manifest_sha256"].value
    assert staleness(chain.instance, chain.defs, "rl_checkpoint") == ("STALE", [("DATA", "sft_checkpoint")])


def test_garbage_collection_keeps_what_the_event_log_needs(chain: Chain, sft: Callable) -> None:
    made = [sft(weights).metadata["manifest_sha256"].value for weights in ("one", "two", "three")]
    records = chain.instance.fetch_materializations(dg.AssetKey("sft_checkpoint"), limit=3).records

    def needed(since: float) -> set[str]:
        found = needed_manifests(chain.instance, since)
        assert chain.latest("tokenizer").metadata["manifest_sha256"].value in found, "the latest stays whatever its age"
        return found & set(made)

    assert needed(0.0) == set(made)
    assert needed(records[1].timestamp - 0.001) == {made[1], made[2]}
    assert needed(records[0].timestamp + 60) == {made[2]}
