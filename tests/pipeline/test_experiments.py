"""Experiments side by side: no chain takes or replaces what is another's, and every command calls them alike."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.cli import main
from aquarat_core.config import load_profile
from aquarat_core.maintenance.collect import DAY, clock, find_garbage
from aquarat_core.maintenance.verify import verify
from aquarat_pipeline import experiments
from aquarat_pipeline.assets.maintenance import differences
from aquarat_pipeline.assets.provenance import ANY_INPUTS
from aquarat_pipeline.assets.retention import latest_events
from aquarat_pipeline.experiments import Experiment, ExperimentError
from aquarat_pipeline.runs import profiles
from aquarat_pipeline.runs.in_process import Terminal, beside
from aquarat_pipeline.runs.launcher import GpuRunLauncher
from aquarat_pipeline.runs.submit import submit
from aquarat_pipeline.tags import ANY_INPUTS_TAG, EXPERIMENT_TAG, PROFILE_HASH_TAG, PROFILE_TAG
from aquarat_pipeline.workers import RUN_PROFILE
from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain, failure_text

pytestmark = pytest.mark.slow

DATA = ("aqua_dataset", "chat_datasets", "pretrain_text")
TO_SFT = (*DATA, "tokenizer", "pretrain_tokens", "base_checkpoint", "mid_checkpoint", "sft_checkpoint")


def of(experiment: str, names: tuple[str, ...]) -> list[str]:
    return [f"{experiment}/{name}" for name in names]


def warnings_of(chain: Chain, run_id: str) -> list[str]:
    """What the run's log warns of."""
    return [entry.user_message for entry in chain.instance.all_logs(run_id) if entry.level == 30]


@pytest.fixture
def wide(instance: dg.DagsterInstance, store_uri: str) -> Chain:
    """The toy chain twice: under `demo`, and as the experiment `wide` under `d12`."""
    return Chain(instance, toy_definitions.build(named=[Experiment(load_profile("d12"), "wide")]))


def test_two_chains_in_one_store_and_one_dagster(wide: Chain, store_uri: str) -> None:
    assert wide.materialize(*TO_SFT).success
    store = ArtifactStore.open(store_uri)
    mine = {name: store.latest(name).sha256 for name in TO_SFT}
    result = wide.materialize(*of("wide", TO_SFT))
    assert result.success
    assert {name: store.latest(name).sha256 for name in TO_SFT} == mine
    sft = store.latest("wide/sft_checkpoint")
    assert sft.sha256 != mine["sft_checkpoint"]
    assert (sft.manifest.profile, sft.manifest.profile_sha256) == ("d12", load_profile("d12").sha256)
    assert {p.manifest_sha256 for p in sft.manifest.parents} == {
        store.latest(f"wide/{p.asset}").sha256 for p in sft.manifest.parents
    }
    event = wide.latest("wide/sft_checkpoint")
    assert event.tags["dagster/input_data_version/wide/mid_checkpoint"]
    assert not [tag for tag in event.tags if tag == "dagster/input_data_version/mid_checkpoint"]
    assert all(check.passed for check in result.get_asset_check_evaluations())
    assert differences(wide.instance, store) == []
    assert warnings_of(wide, result.run_id) == []


def test_what_experiments_have_made_is_kept_and_checked(
    wide: Chain, store_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wide.materialize(*of("wide", DATA)).success
    store = ArtifactStore.open(store_uri)
    assert find_garbage(store, now=clock(store) + 2 * DAY).objects == ()
    assert verify(store).problems == ()
    assert main(["show", "wide/aqua_dataset", "--store", store_uri]) == 0
    shown = capsys.readouterr().out
    assert "d12 (" in shown and "questions" in shown
    assert main(["store", "ls", "--store", store_uri, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["artifacts"]
    assert [fact["names"] for fact in listed] == [[name] for name in sorted(of("wide", DATA))]
    other = store.latest("wide/chat_datasets")
    store._move_ref("wide/aqua_dataset", other.sha256, other.data_version)
    (problem,) = verify(store).problems
    assert "refs/wide/aqua_dataset/latest.json names chat_datasets" in problem
    assert [d.asset for d in differences(wide.instance, store)] == ["wide/aqua_dataset"]
    assert main(["refs", "--mend"]) == 0
    assert verify(store).problems == ()


def test_an_input_of_another_profile_is_refused_or_taken_knowingly(
    chain: Chain, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chain.materialize(*TO_SFT).success
    store = ArtifactStore.open(store_uri)
    before = store.latest("base_checkpoint").sha256
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_definitions, "load_profile", lambda _: load_profile("d12"))
        d12 = Chain(chain.instance, toy_definitions.build())
    result = d12.materialize("base_checkpoint")
    said = failure_text(result, "base_checkpoint")
    assert said.startswith(
        "base_checkpoint of profile d12 would be made from tokenizer of another profile: made under profile"
    )
    assert re.search(r"under profile demo \([0-9a-f]{12}\) with .*tokenizer\.vocab_size \d+ \(profile: 32768\)", said)
    assert "--select '*base_checkpoint'" in said and "aquarat experiments add NAME --profile d12" in said
    assert store.latest("base_checkpoint").sha256 == before
    result = d12.materialize("base_checkpoint", tags={ANY_INPUTS_TAG: "true"})
    assert result.success
    taken, replaced = warnings_of(d12, result.run_id)[-2:]
    assert "which differs from profile d12: made under profile demo" in taken
    assert replaced.startswith("this run's base_checkpoint replaces the one that was made under profile demo (")
    monkeypatch.setenv(ANY_INPUTS, "1")
    assert d12.materialize("mid_checkpoint").success


def test_a_profile_that_changes_what_comes_later_takes_what_came_before(chain: Chain) -> None:
    assert chain.materialize(*TO_SFT).success
    with pytest.MonkeyPatch.context() as patch:
        mine = load_profile("demo", {"name": "mine", "rl_checkpoint": {"steps": 7}})
        patch.setattr(toy_definitions, "load_profile", lambda _: mine)
        other = Chain(chain.instance, toy_definitions.build())
    result = other.materialize("rl_checkpoint")
    assert result.success and warnings_of(other, result.run_id) == []


def test_an_override_of_the_same_profile_is_said_where_it_is_taken(chain: Chain) -> None:
    assert chain.materialize(*TO_SFT, config={"mid_checkpoint": {"steps": 3}}).success
    result = chain.materialize("sft_checkpoint")
    assert result.success
    said = " ".join(warnings_of(chain, result.run_id))
    assert "sft_checkpoint is made from mid_checkpoint" in said and "mid_checkpoint.steps 3 (profile: " in said


@pytest.fixture
def home(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory)


def test_experiments_are_added_listed_and_removed(
    home: Path, store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "my profile.yaml"
    profile.write_text("extends: demo\nname: mine\ndescription: Of a test.\n")
    assert main(["experiments", "add", "wide", "--profile", "d12"]) == 0
    assert "aquarat materialize --with-parents wide/rl_checkpoint" in capsys.readouterr().out
    assert main(["experiments", "add", "mine_2", "--profile", str(profile)]) == 0
    assert experiments.registered() == {"mine_2": str(profile), "wide": "d12"}
    for bad in ("Wide", "a/b", "../x", "a__b", "x" * 41, "rl_checkpoint", ""):
        assert main(["experiments", "add", bad, "--profile", "d12"]) == 2
        assert f"{bad!r} cannot name an experiment" in capsys.readouterr().err
    assert main(["experiments", "add", "wide", "--profile", "demo"]) == 2
    assert "the experiment wide already exists" in capsys.readouterr().err
    assert main(["experiments", "add", "new", "--profile", "nope"]) == 2
    assert "unknown profile 'nope'" in capsys.readouterr().err
    assert sorted(experiments.registered()) == ["mine_2", "wide"]
    profile.unlink()
    assert [e.name for e in experiments.experiments()] == ["", "wide"], "one that cannot be loaded is left out"
    assert main(["experiments", "--store", store_uri]) == 1
    said = capsys.readouterr().out
    assert "mine_2: unknown profile" in said and "wide        d12 (" in said
    assert main(["experiments", "remove", "mine_2"]) == 0 and main(["experiments", "remove", "mine_2"]) == 2
    assert "there is no experiment 'mine_2'" in capsys.readouterr().err


def test_a_ladder_of_depths_is_an_experiment_for_each(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for depth in (10, 14):
        assert main(["experiments", "add", f"depth_{depth}", "--depth", str(depth)]) == 0
    loaded = {e.name: e.profile for e in experiments.experiments()}
    assert {name: profile.depth for name, profile in loaded.items()} == {"": None, "depth_10": 10, "depth_14": 14}
    assert loaded["depth_14"] == load_profile(depth=14)
    assert main(["experiments", "add", "none"]) == 2
    assert "give --profile or --depth" in capsys.readouterr().err
    assert main(["experiments", "add", "small", "--profile", "demo", "--depth", "8"]) == 2


def test_a_file_that_is_no_experiment_harms_no_other_and_can_be_removed(
    home: Path, store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / 'we"ird.yaml'
    odd.write_text("extends: demo\ndescription: Of a test.\n")
    experiments.add("odd", str(odd))
    assert experiments.of_run(["odd"]).profile.name == 'we"ird', "a file without a name goes by its own"
    folder = home / "aquarat/experiments"
    (folder / "one.yaml").write_text("profile: [1]\n")
    (folder / "two.yaml").symlink_to("nowhere")
    (folder / "Foo-Bar.yaml").write_text("profile: tiny\n")
    os.mkfifo(folder / "three.yaml")
    assert list(experiments.registered()) == ["odd"]
    assert [e.name for e in experiments.experiments()] == ["", "odd"]
    with pytest.raises(ExperimentError, match=r"one\.yaml must only say which profile"):
        experiments.of_run(["one"])
    assert main(["experiments", "--store", store_uri]) == 1
    said = capsys.readouterr().out
    assert (
        "three.yaml is not a regular file" in said and "Foo-Bar.yaml: this cannot be the name of an experiment" in said
    )
    for name in ("one", "two", "three"):
        assert main(["experiments", "remove", name]) == 0
    (folder / "Foo-Bar.yaml").unlink()
    assert main(["experiments", "add", "new", "--profile", ""]) == 2
    assert main(["experiments", "--store", store_uri]) == 0


@pytest.mark.parametrize("named", [None, "rel", "/nowhere/at/all", "FILE"])
@pytest.mark.parametrize("command", [["aquarat_core.cli", "materialize", "aqua_dataset"], ["aquarat_pipeline.demo"]])
def test_a_home_that_is_none_is_a_mistake(root: Path, tmp_path: Path, named: str | None, command: list[str]) -> None:
    (tmp_path / "file").touch()
    env = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    if named:
        env["DAGSTER_HOME"] = named.replace("FILE", str(tmp_path / "file"))
    env["PYTHONPATH"] = str(root)
    out = subprocess.run([sys.executable, "-m", *command], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == (1 if "demo" in command[0] else 2)
    assert "DAGSTER_HOME is" in out.stderr and "Traceback" not in out.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    if "demo" in command[0]:
        assert json.loads(out.stdout)["ok"] is False


def test_an_input_whose_ancestry_cannot_be_read_is_said(chain: Chain, store_uri: str) -> None:
    assert chain.materialize(*TO_SFT).success
    store = ArtifactStore.open(store_uri)
    store.backend.delete(f"manifests/{store.latest('pretrain_text').sha256}.json")
    result = chain.materialize("mid_checkpoint")
    assert result.success
    assert "not all ancestors of base_checkpoint can be read, so their profiles are not checked" in " ".join(
        warnings_of(chain, result.run_id)
    )


def test_the_table_of_experiments_compares_their_reports(
    wide: Chain, home: Path, order, store_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    experiments.add("wide", "d12")
    scores = {"accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "constant_letter_accuracy": 0.2, "n": 2000}
    order("base_eval_report", metrics=scores)
    names = (*TO_SFT[:6], "base_eval_report")
    assert wide.materialize(*names).success
    assert wide.materialize(*of("wide", names[:4])).success
    assert main(["experiments", "--store", store_uri]) == 0
    heads, main_row, wide_row, _ = capsys.readouterr().out.splitlines()
    assert heads.split() == ["experiment", "profile", "made", "base", "mid", "sft", "rl"]
    assert re.fullmatch(r"-\s+demo \([0-9a-f]{6}\)\s+7 of 15\s+50.0%\s+-\s+-\s+-", main_row.strip())
    assert re.fullmatch(r"wide\s+d12 \([0-9a-f]{6}\)\s+4 of 16\s+-\s+-\s+-\s+-", wide_row.strip())


def test_a_launched_run_keeps_its_experiment_and_its_profile(
    home: Path, instance: dg.DagsterInstance, store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_MODULE_NAME", raising=False)
    for module in ("aquarat", "aquarat_pipeline.definitions"):
        # A process loads its experiments once; another test of this one may have.
        monkeypatch.delitem(sys.modules, module, raising=False)
    profile = tmp_path / "p.yaml"
    profile.write_text("extends: tiny\nname: mine\ndescription: Of a test.\n")
    experiments.add("wide", str(profile))
    run = submit(instance, ["wide/aqua_dataset"])
    assert run.asset_selection == {dg.AssetKey(["wide", "aqua_dataset"])}
    assert (run.tags[EXPERIMENT_TAG], run.tags[PROFILE_TAG]) == ("wide", "mine")
    began = load_profile(str(profile)).sha256
    assert run.tags[PROFILE_HASH_TAG] == began
    profile.write_text("extends: demo\nname: changed\ndescription: Of a test.\n")
    launcher = GpuRunLauncher()
    launcher.register_instance(instance)
    variables = launcher._profile(run)
    assert list(variables) == [RUN_PROFILE]
    monkeypatch.setenv(RUN_PROFILE, variables[RUN_PROFILE])
    assert {e.name: e.profile.name for e in experiments.experiments()} == {"": "demo", "wide": "mine"}
    assert experiments.of_run(["wide"]).profile.sha256 == began
    with pytest.raises(
        ExperimentError, match="only one experiment, but this one was asked for assets of the main one, wide"
    ):
        submit(instance, ["wide/aqua_dataset", "aqua_dataset"])
    with pytest.raises(ExperimentError, match="there is no experiment 'nope'; there are wide"):
        submit(instance, ["nope/aqua_dataset"])
    profiles.check(run.tags, experiments.of_run(["wide"]).profile)


def test_the_real_command_line_makes_an_assets_of_an_experiment(home: Path, store_uri: str, tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    few = "aqua_dataset: {n_train: 40, n_validation: 10, n_test: 10}"
    profile.write_text(f"extends: demo\nname: few\ndescription: Of a test.\n{few}\nrl_checkpoint: {{limit: 40}}\n")
    experiments.add("few", str(profile))
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select"]
    env = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_MODULE_NAME": "aquarat_pipeline.definitions"}
    env.pop("AQUARAT_PROFILE", None)
    subprocess.run([*command, "few/aqua_dataset"], env=env, check=True, capture_output=True)
    store = ArtifactStore.open(store_uri)
    assert store.assets() == ["few/aqua_dataset"]
    assert store.latest("few/aqua_dataset").manifest.profile == "few"
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert (run.tags[EXPERIMENT_TAG], run.tags[PROFILE_TAG]) == ("few", "few")
        assert [key.to_user_string() for key in latest_events(instance)] == ["few/aqua_dataset"]
    mixed = subprocess.run([*command, "few/aqua_dataset,aqua_dataset"], env=env, capture_output=True, text=True)
    assert mixed.returncode != 0
    assert "a run makes assets of only one experiment" in mixed.stdout + mixed.stderr
    assert store.assets() == ["few/aqua_dataset"]


def test_a_whole_chain_of_another_profile_goes_beside_the_main_one(
    chain: Chain, store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    user = Terminal(io.StringIO(), said, tmp_path / "log")
    demo, tiny = load_profile("demo"), load_profile("tiny")
    assert beside(user, tiny) == Experiment(tiny), "nobody has made anything yet"
    assert chain.materialize("aqua_dataset").success
    assert beside(user, demo) == Experiment(demo) and said.getvalue() == ""
    monkeypatch.setenv("AQUARAT_PROFILE", "tiny")
    assert beside(user, tiny) == beside(user, tiny) == Experiment(tiny, "tiny")
    assert experiments.registered() == {"tiny": "tiny"}
    assert said.getvalue().startswith(
        "The main assets are those of profile demo: this chain is made as experiment tiny, "
    )
    other = load_profile("d12", {"name": "Tiny"})
    with pytest.raises(ExperimentError, match="the experiment tiny follows another profile, tiny: give this profile"):
        beside(user, other)


def test_an_experiment_that_is_removed_meanwhile_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    experiments.add("wide", "d12")
    experiments.add("wider", "d12")
    load = experiments.strict_yaml.load

    def removed(path: Path) -> object:
        if path.stem == "wide":
            path.unlink()
        return load(path)

    monkeypatch.setattr(experiments.strict_yaml, "load", removed)
    assert [*experiments._files()] == ["wider"]
