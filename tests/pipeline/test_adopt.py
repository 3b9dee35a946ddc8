"""Any checkpoint as the latest of a training stage: later stages continue from it, and Dagster and the store agree."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, format_lineage, lineage
from aquarat_core.artifacts.store import rebuild_advice
from aquarat_core.cli import main
from aquarat_core.config import load_profile
from aquarat_core.maintenance.verify import verify
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.text.tokenizer import Tokenizer
from aquarat_pipeline.assets.history import fresh
from aquarat_pipeline.assets.maintenance import differences
from aquarat_pipeline.assets.publishing import overtaken_by
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.runs.in_process import Terminal, beside, materialize
from tests.factories import random_model, tokenizer
from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

DATA = ("aqua_dataset", "chat_datasets", "pretrain_text")
TO_MID = (*DATA, "tokenizer", "pretrain_tokens", "base_checkpoint", "mid_checkpoint")
Adopt = Callable[..., tuple[int, str, str]]


def published(store_uri: str, folder: Path, asset: str = "nanochat_checkpoint", **config) -> Artifact:
    """A checkpoint as `aquarat import` publishes it."""
    content = folder / f"{asset}-{len(config)}-{config.get('seed', 0)}"
    content.mkdir(parents=True)
    tokenizer().save(folder / "tokenizer.json")
    model = random_model(tokenizer().vocab_size, **{"sequence_len": 256} | config)
    save_checkpoint(content, model, folder / "tokenizer.json")
    return ArtifactStore.open(store_uri).publish(
        asset=asset, kind="checkpoint", directory=content, config={"imported_from": "nanochat"}, profile="imported",
        code=CodeVersion(version="1" * 64), parents=(), metrics={"parameters": 7}, seeds={}, run_id="import-1",
    )  # fmt: skip


@pytest.fixture
def imported(store_uri: str, tmp_path: Path) -> Artifact:
    return published(store_uri, tmp_path / "made")


@pytest.fixture
def adopt(chain: Chain, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Adopt:
    """Runs `aquarat adopt`; exit code, standard output and standard error."""
    monkeypatch.setenv("AQUARAT_PROFILE", "demo")

    def call(*arguments: str) -> tuple[int, str, str]:
        return main(["adopt", *arguments]), *capsys.readouterr()

    return call


def status(chain: Chain, name: str) -> StaleStatus:
    graph = chain.defs.resolve_asset_graph()
    return CachingStaleStatusResolver(chain.instance, graph, LoadingContextForTest(chain.instance)).get_status(
        dg.AssetKey.from_user_string(name)
    )


def checked(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], bool]:
    return {(e.asset_key.to_user_string(), e.check_name): e.passed for e in result.get_asset_check_evaluations()}


def check(chain: Chain, name: str) -> dict[tuple[str, str], bool]:
    return {(name, check): event.passed for check, event in chain.check(name).items()}


def test_rl_continues_from_an_adopted_checkpoint(
    chain: Chain, adopt: Adopt, imported: Artifact, store_uri: str, tmp_path: Path
) -> None:
    blobs = sorted(path.name for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file())
    code, said, _ = adopt("nanochat_checkpoint", "--as", "sft_checkpoint", "--json")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file()) == blobs
    store = ArtifactStore.open(store_uri)
    sft = store.latest("sft_checkpoint")
    assert json.loads(said)["manifest_sha256"] == sft.sha256 and json.loads(said)["adopted_from"] == imported.sha256
    assert (sft.manifest.files, sft.data_version) == (imported.manifest.files, imported.data_version)
    assert sft.manifest.adopted_from == imported.as_parent() and sft.manifest.run_id == f"adopt-{imported.sha256[:12]}"
    assert differences(chain.instance, store) == []
    assert check(chain, "sft_checkpoint") == {
        ("sft_checkpoint", "artifact_complete"): True,
        ("sft_checkpoint", "lineage_agrees"): True,
        ("sft_checkpoint", "loss_is_sane"): True,
    }
    assert status(chain, "sft_checkpoint") == StaleStatus.FRESH, "although its stage's inputs were never made"

    assert chain.materialize("aqua_dataset").success
    result = chain.materialize("rl_checkpoint")
    assert result.success and all(checked(result).values())
    rl = store.latest("rl_checkpoint")
    assert sft.as_parent() in rl.manifest.parents
    assert "nanochat_checkpoint" in format_lineage(lineage(store, rl.sha256))
    event = chain.latest("rl_checkpoint")
    assert event.tags["dagster/input_data_version/sft_checkpoint"] == sft.data_version
    assert event.metadata["input/sft_checkpoint/run"].value == sft.manifest.run_id
    assert status(chain, "rl_checkpoint") == StaleStatus.FRESH
    assert verify(store).problems == ()


def test_an_adopted_checkpoint_has_a_report_without_the_chain_before_it(
    chain: Chain, adopt: Adopt, imported: Artifact, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"n": 9, "accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "constant_letter_accuracy": 0.2}
    monkeypatch.setenv("TOY_SFT_EVAL_REPORT", json.dumps({"metrics": scores | {"parse_rate": 1.0}}))
    assert adopt("nanochat_checkpoint", "--as", "sft_checkpoint")[0] == 0
    assert chain.materialize("aqua_dataset").success
    result = chain.materialize("sft_eval_report")
    assert result.success and checked(result)["sft_eval_report", "lineage_agrees"]
    report = ArtifactStore.open(store_uri).latest("sft_eval_report")
    assert {parent.asset for parent in report.manifest.parents} == {"sft_checkpoint", "aqua_dataset"}
    assert status(chain, "sft_eval_report") == StaleStatus.FRESH
    experiment = Experiment(load_profile("demo"))
    opened = ArtifactStore.open(store_uri)
    names = ("sft_checkpoint", "sft_eval_report")
    assert fresh(chain.instance, opened, experiment, names).keys() == set(names)
    assert not chain.materialize("base_eval_report").success, "as before"


def test_an_adopted_checkpoint_is_its_source_to_checks_and_commands(
    chain: Chain, adopt: Adopt, imported: Artifact, store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt("nanochat_checkpoint", "--as", "sft_checkpoint")[0] == 0
    store = ArtifactStore.open(store_uri)
    sft = store.latest("sft_checkpoint")
    assert main(["reproduce", "sft_checkpoint"]) == 2
    said = capsys.readouterr().err
    assert f"was adopted from nanochat_checkpoint and has the same files: reproduce {imported.sha256[:12]}" in said
    said = rebuild_advice(store, sft.manifest)
    assert said.endswith("restore that, and aquarat adopt nanochat_checkpoint --as sft_checkpoint")
    event = chain.latest("sft_checkpoint")
    forged = {**event.metadata, "adopted_from": "0" * 64}
    chain.instance.report_runless_asset_event(
        dg.AssetMaterialization("sft_checkpoint", metadata=forged, tags=event.tags)
    )
    assert check(chain, "sft_checkpoint")["sft_checkpoint", "lineage_agrees"] is False


def test_an_adopted_checkpoint_is_kept_and_replaced_on_request(
    chain: Chain, adopt: Adopt, imported: Artifact, store_uri: str
) -> None:
    assert chain.materialize(*TO_MID, "sft_checkpoint").success
    store, experiment = ArtifactStore.open(store_uri), Experiment(load_profile("demo"))
    assert adopt("nanochat_checkpoint", "--as", "sft_checkpoint")[0] == 0
    sft = store.latest("sft_checkpoint")
    assert status(chain, "sft_checkpoint") == StaleStatus.FRESH
    # Its own stage's inputs change, and nothing but a request makes it again.
    assert chain.materialize("mid_checkpoint", config={"mid_checkpoint": {"steps": 3}}).success
    kept = fresh(chain.instance, store, experiment, (*TO_MID, "sft_checkpoint"))
    assert kept["sft_checkpoint"].artifact.sha256 == sft.sha256 and "mid_checkpoint" not in kept
    assert kept["sft_checkpoint"].adopted == imported.as_parent()
    (run,) = [run for run in chain.instance.get_runs() if "base_checkpoint" in str(run.asset_selection)]
    assert "adopted since" in (overtaken_by(chain.instance, run.run_id, ["sft_checkpoint"]) or "")

    result = chain.materialize("sft_checkpoint")
    assert result.success and store.latest("sft_checkpoint").manifest.adopted_from is None
    warnings = [entry.user_message for entry in chain.instance.all_logs(result.run_id) if entry.level == 30]
    assert any(
        f"replaces the one that was adopted from nanochat_checkpoint {imported.sha256[:12]}" in w for w in warnings
    )


def test_materialize_makes_nothing_that_only_an_adopted_checkpoint_needs(
    chain: Chain, adopt: Adopt, imported: Artifact, store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_MODULE_NAME", toy_definitions.__name__)
    monkeypatch.setattr(toy_definitions, "defs", chain.defs)
    assert adopt("nanochat_checkpoint", "--as", "sft_checkpoint")[0] == 0
    shown = io.StringIO()
    user = Terminal(io.StringIO(), shown, tmp_path / "log")
    outcome = materialize(user, chain.instance, ["rl_checkpoint"], with_parents=True)
    assert set(outcome.artifacts) == {"aqua_dataset", "sft_checkpoint", "rl_checkpoint"}
    assert set(outcome.fresh) == {"sft_checkpoint"}
    assert f"sft_checkpoint    adopted from nanochat_checkpoint {imported.sha256[:12]}" in shown.getvalue()
    assert beside(user, load_profile("demo")).name == "", "an adopted checkpoint is of no other profile"


def test_a_checkpoint_of_another_experiment_is_no_input_of_another_profile(
    instance: dg.DagsterInstance, store_uri: str, adopt: Adopt, imported: Artifact
) -> None:
    """Its ancestors have another profile's settings; adopting it accepts them."""
    wide = Chain(instance, toy_definitions.build(named=[Experiment(load_profile("d12"), "wide")]))
    assert wide.materialize(*(f"wide/{name}" for name in TO_MID)).success
    store = ArtifactStore.open(store_uri)
    theirs = store.latest("wide/mid_checkpoint")
    # Toy stages write no model: this one has a real one, and the same ancestors.
    real = store.add_manifest(
        theirs.manifest.model_copy(update={"files": imported.manifest.files, "run_id": "other"}), latest=False
    )
    store.make_latest(real, "wide/mid_checkpoint")
    assert adopt("wide/mid_checkpoint", "--as", "sft_checkpoint")[0] == 0
    assert wide.materialize("aqua_dataset").success
    assert wide.materialize("rl_checkpoint").success


def test_a_named_experiment_adopts_too(
    instance: dg.DagsterInstance, chain: Chain, adopt: Adopt, imported: Artifact, store_uri: str
) -> None:
    assert main(["experiments", "add", "mine", "--profile", "demo"]) == 0
    code, said, _ = adopt(imported.sha256[:10], "--as", "mine/mid_checkpoint")
    assert code == 0 and "mine/mid_checkpoint is now nanochat_checkpoint" in said
    store = ArtifactStore.open(store_uri)
    assert store.latest("mine/mid_checkpoint").asset == "mid_checkpoint" and store.latest("mid_checkpoint") is None
    assert differences(instance, store) == []


def test_what_does_not_fit_is_said_and_changes_nothing(
    adopt: Adopt, chain: Chain, imported: Artifact, store_uri: str, tmp_path: Path
) -> None:
    def refused(*arguments: str) -> str:
        code, said, error = adopt(*arguments)
        *_, last = error.splitlines()  # toy stages write there too
        assert (code, said, "Traceback" in error) == (2, "", False)
        return last

    published(store_uri, tmp_path / "small", "small_checkpoint", sequence_len=48)
    published(store_uri, tmp_path / "odd", "odd_checkpoint", sequence_len=250)
    assert "did you mean 'nanochat_checkpoint'?" in refused("nanochat_chekpoint", "--as", "sft_checkpoint")
    assert "did you mean 'sft_checkpoint'?" in refused("nanochat_checkpoint", "--as", "sft_chekpoint")
    assert "aqua_dataset is no checkpoint of training" in refused("nanochat_checkpoint", "--as", "aqua_dataset")
    assert "there is no experiment 'nowhere'" in refused("nanochat_checkpoint", "--as", "nowhere/sft_checkpoint")
    said = refused("small_checkpoint", "--as", "sft_checkpoint")
    assert "its context is 48 tokens long, and eval_report.max_new_tokens 48 leaves no room" in said
    assert "mid_checkpoint.batch_tokens" in refused("odd_checkpoint", "--as", "base_checkpoint")
    assert chain.materialize("aqua_dataset").success
    assert "aqua_dataset" in (said := refused("aqua_dataset", "--as", "sft_checkpoint")) and "is a dataset" in said
    store = ArtifactStore.open(store_uri)
    assert store.latest("sft_checkpoint") is None and store.latest("base_checkpoint") is None
    assert adopt("odd_checkpoint", "--as", "rl_checkpoint")[0] == 0, "no stage trains it on"
    assert "is the latest rl_checkpoint already" in refused("odd_checkpoint", "--as", "rl_checkpoint")
    assert "is the latest rl_checkpoint already" in refused("rl_checkpoint", "--as", "rl_checkpoint")


def test_a_tokenizer_without_the_chat_tokens_is_refused(adopt: Adopt, store_uri: str, tmp_path: Path) -> None:
    content = tmp_path / "plain"
    content.mkdir()
    full = tokenizer()
    plain = Tokenizer(full.pattern, full.merges, ["<|bos|>"])
    plain.save(tmp_path / "tokenizer.json")
    save_checkpoint(content, random_model(plain.vocab_size, sequence_len=256), tmp_path / "tokenizer.json")
    ArtifactStore.open(store_uri).publish(
        asset="plain", kind="checkpoint", directory=content, config={}, profile="imported", parents=(), metrics={},
        code=CodeVersion(version="1" * 64), seeds={}, run_id="import-1",
    )  # fmt: skip
    code, _, error = adopt("plain", "--as", "sft_checkpoint")
    assert code == 2 and "its tokenizer has no <|user_start|>, <|user_end|>" in error


def test_the_real_rl_stage_trains_an_adopted_checkpoint(store_uri: str, tmp_path: Path, root: Path) -> None:
    """As a user does it: `aquarat adopt`, then `aquarat materialize`, which makes only what RL needs besides."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())
    profile = tmp_path / "short.yaml"
    profile.write_text(
        "extends: demo\nname: short\ndescription: One step of RL.\n"
        "rl_checkpoint: {steps: 1, prompts_per_step: 4, group_size: 2, eval_every: 1, eval_questions: 4, "
        "probe_questions: 4, min_parse_rate: 0.0, min_first_reward: 0.0, max_zero_variance: 1.0, launch: {nproc: 1}}\n"
    )
    environment = {
        **os.environ, "DAGSTER_HOME": str(home), "DAGSTER_MODULE_NAME": "aquarat_pipeline.definitions",
        "AQUARAT_PROFILE": str(profile), "WANDB_MODE": "offline",
    }  # fmt: skip
    imported = published(store_uri, tmp_path / "made")

    def aquarat(*arguments: str) -> str:
        command = [sys.executable, "-m", "aquarat_core.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    aquarat("adopt", "nanochat_checkpoint", "--as", "sft_checkpoint")
    made = json.loads(aquarat("materialize", "rl_checkpoint", "--with-parents", "--json"))
    assert set(made) == {"aqua_dataset", "sft_checkpoint", "rl_checkpoint"}
    assert [name for name, facts in made.items() if facts["fresh"]] == ["sft_checkpoint"]
    store = ArtifactStore.open(store_uri)
    rl = store.latest("rl_checkpoint")
    (parent,) = [p for p in rl.manifest.parents if p.asset == "sft_checkpoint"]
    assert store.get(parent.manifest_sha256).manifest.adopted_from == imported.as_parent()
    assert "nanochat_checkpoint" in aquarat("lineage", "rl_checkpoint")


def test_a_checkpoint_made_elsewhere_is_imported_or_copied_on_the_way(
    chain: Chain, adopt: Adopt, imported: Artifact, store_uri: str, tmp_path: Path
) -> None:
    store = ArtifactStore.open(store_uri)
    code, said, err = adopt(str(tmp_path / "made" / "nanochat_checkpoint-0-0"), "--as", "sft_checkpoint", "--json",
                            "--name", "from-a-folder")  # fmt: skip
    assert code == 0 and "imported as imported_checkpoint" in err
    sft = store.latest("sft_checkpoint")
    assert sft.manifest.adopted_from.asset == "imported_checkpoint"
    assert store.resolve("from-a-folder").sha256 == sft.sha256 == json.loads(said)["manifest_sha256"]

    other = ArtifactStore.open(f"file://{tmp_path}/elsewhere")
    theirs = published(other.uri, tmp_path / "theirs")
    code, _, err = adopt(theirs.uri, "--as", "mid_checkpoint")
    assert code == 0 and f"copying 1 artifacts from {other.uri}" in err
    assert store.latest("mid_checkpoint").manifest.adopted_from == theirs.as_parent()
    assert store.latest("nanochat_checkpoint").sha256 == imported.sha256, "no ref of this store moves but the asset's"
    assert verify(store).problems == ()

    code, _, err = adopt("from-a-folder", "--as", "mid_checkpoint", "--name", "Not A Name")
    assert code == 2 and "cannot name an artifact" in err
    mid = store.latest("mid_checkpoint")
    for name, said in (("from-a-folder", "already names sft_checkpoint"), ("rl_checkpoint", "is an asset")):
        code, _, err = adopt("from-a-folder", "--as", "mid_checkpoint", "--name", name)
        assert code == 2 and said in err
        assert store.latest("mid_checkpoint").sha256 == mid.sha256, "nothing moves if the name cannot be given"
    code, _, err = adopt("from-a-folder", "--as", "mid_checkpoint", "--move")
    assert code == 2 and "--move is for --name" in err
    code, said, _ = adopt("from-a-folder", "--as", "mid_checkpoint", "--name", "from-a-folder", "--move")
    assert code == 0 and "named from-a-folder" in said
    assert store.resolve("from-a-folder").sha256 == store.latest("mid_checkpoint").sha256
    assert adopt(f"aquarat://{imported.sha256}", "--as", "rl_checkpoint")[0] == 0
    assert adopt("nothing-like-it", "--as", "mid_checkpoint")[0] == 2
