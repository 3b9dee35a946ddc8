"""`--set FIELD=VALUE` and `aquarat plan`: what a run is started with, and what it would do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile
from aquarat_core.config.overrides import field_names, overrides
from aquarat_core.errors import UserError
from tests.pipeline.terminal import Shell

CLI = "aquarat_core.cli"
DEMO = load_profile("demo")


@pytest.fixture
def shell(root: Path, tmp_path: Path) -> Shell:
    return Shell(root, tmp_path)


def latest(shell: Shell, asset: str) -> dict[str, object]:
    found = ArtifactStore.open(f"file://{shell.directory}/store").latest(asset)
    assert found is not None
    return found.manifest.config


# --- fields -----------------------------------------------------------------------------------------------------------


def test_values_have_the_types_of_the_config() -> None:
    given = ["rl_checkpoint.steps=20", "rl_checkpoint.optim.lr_scale=1e-2", "rl_checkpoint.checkpoint.every_steps=null"]
    assert overrides(DEMO, given) == {
        "rl_checkpoint": {"steps": 20, "optim": {"lr_scale": 0.01}, "checkpoint": {"every_steps": None}}
    }
    assert overrides(DEMO, []) == {}
    assert {"rl_checkpoint.steps", "base_checkpoint.model.depth"} <= set(field_names())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["rl_checkpoint.stepz=3"], "rl_checkpoint.stepz: unknown field; did you mean steps?"),
        (["rl_checkpoint.steps=0"], "rl_checkpoint.steps: Input should be greater than or equal to 1"),
        (["rl_checkpoint.steps=many"], "rl_checkpoint.steps: Input should be a valid integer"),
        (["rl_checkpont.steps=3"], "a profile has no section 'rl_checkpont'; did you mean 'rl_checkpoint'?"),
        (["rl_eval_report.limit=3"], "eval_report sets a field of all eval reports"),
        (["steps"], "'steps' is not a field and its value, such as rl_checkpoint.steps=20"),
        (["rl_checkpoint.steps=["], "the value of rl_checkpoint.steps"),
        (["rl_checkpoint.steps=1", "rl_checkpoint.steps=2"], "rl_checkpoint.steps is set twice"),
        (["rl_checkpoint.optim={}", "rl_checkpoint.optim.lr_scale=1"], "rl_checkpoint.optim is set twice"),
        (["rl_checkpoint.optim.lr_scale=1", "rl_checkpoint.optim={}"], "rl_checkpoint.optim is set twice"),
        (["chat_datasets.sources.0.n_train=3"], "chat_datasets.sources is a list, and a list is set as a whole"),
        (["mid_checkpoint.batch_tokens=2000"], "make it a multiple of base_checkpoint.model.sequence_len 256"),
    ],
)
def test_what_cannot_be_set_is_refused_with_the_field(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        overrides(DEMO, given)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_has_the_value_and_says_so(shell: Shell) -> None:
    assert shell.run(CLI, "materialize", "aqua_dataset").returncode == 0
    shown = shell.run(CLI, "plan", "aqua_dataset", "--set", "aqua_dataset.n_train=77")
    assert "was made by other code or with another config" in shown.stdout, "not fresh with that value"
    made = shell.run(CLI, "materialize", "aqua_dataset", "--set", "aqua_dataset.n_train=77", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["aqua_dataset"]["fresh"] is False
    assert latest(shell, "aqua_dataset")["n_train"] == 77
    run = shell.runs()[0]
    assert run.tags["aquarat/set"] == "aqua_dataset.n_train=77"
    assert run.run_config == {"ops": {"aqua_dataset": {"config": {"n_train": 77}}}}
    again = shell.run(CLI, "materialize", "aqua_dataset", "--set", "aqua_dataset.n_train=77", "--json")
    assert json.loads(again.stdout)["aqua_dataset"]["fresh"] is True and len(shell.runs()) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_queued_run_has_it_too_and_a_wrong_one_starts_nothing(shell: Shell) -> None:
    for wrong, said in (
        ("aqua_dataset.n_trian=1", "aqua_dataset.n_trian: unknown field; did you mean n_train?"),
        ("aqua_dataset.n_train=-1", "aqua_dataset.n_train: Input should be greater"),
        ("rl_checkpoint.steps=2", "rl_checkpoint is set, but the run does not make rl_checkpoint"),
    ):
        for command in ("launch", "materialize", "plan"):
            out = shell.run(CLI, command, "aqua_dataset", "--set", wrong, "--json")
            assert out.returncode == 2 and said in out.stderr and "Traceback" not in out.stderr, out.stderr
            assert said in json.loads(out.stdout)["error"]
    assert shell.runs() == []
    out = shell.run(CLI, "launch", "aqua_dataset", "--set", "aqua_dataset.n_train=77", "--json")
    assert out.returncode == 0, out.stderr
    (run,) = shell.runs()
    facts = json.loads(out.stdout)
    assert facts == {"run_id": run.run_id, "status": "QUEUED", "daemon": False}
    assert run.run_config["ops"]["aqua_dataset"]["config"] == {"n_train": 77}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_plan_is_what_would_be_made(shell: Shell) -> None:
    shell.orders["aqua_dataset"] = {"metrics": {"seconds": 3.0}}
    assert shell.run(CLI, "materialize", "aqua_dataset", "chat_datasets").returncode == 0
    out = shell.run(CLI, "plan", "tokenizer", "--with-parents", "--json")
    assert out.returncode == 0, out.stderr
    facts = json.loads(out.stdout)
    assert facts["fresh"].keys() == {"aqua_dataset", "chat_datasets"}
    assert [(make["asset"], make["why"]) for make in facts["make"]] == [
        ("pretrain_text", "was never made"), ("tokenizer", "was never made"),
    ]  # fmt: skip
    assert {make["host"] for make in facts["make"]} == {"this machine"} and facts["problem"] is None
    assert [line.partition(":")[0] for line in facts["requirements"]][-1] == "time"
    assert len(shell.runs()) == 1, "nothing was made"
    again = json.loads(shell.run(CLI, "plan", "aqua_dataset", "--again", "--json").stdout)
    assert again["make"][0] | {"host": ""} == {
        "asset": "aqua_dataset", "why": "is asked for again", "host": "", "seconds_before": 3.0,
    }  # fmt: skip
    fresh = shell.run(CLI, "plan", "aqua_dataset")
    assert fresh.returncode == 0 and fresh.stdout.endswith("Nothing would be made.\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_plan_that_no_host_can_run_is_a_finding(shell: Shell) -> None:
    hosts = {"hosts": [{"name": "gpus", "address": "u@h", "gpus": 1, "gpu_kind": "H100", "price_per_hour": 2.0}]}
    (shell.home / "hosts.yaml").write_text(yaml.safe_dump(hosts))
    out = shell.run(CLI, "plan", "--profile", "d12", "--json")
    assert out.returncode == 1, out.stderr
    facts = json.loads(out.stdout)
    assert "no host could ever run these stages" in facts["problem"]
    assert [make["asset"] for make in facts["make"]][:2] == ["aqua_dataset", "chat_datasets"], "the whole chain"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_plan_counts_on_gpus_that_are_not_there(shell: Shell) -> None:
    options = ("--depth", "10", "--gpu", "a100", "--price", "1.5")
    out = shell.run(CLI, "plan", *options, "--json")
    facts = json.loads(out.stdout)
    found = {one["stage"]: one for one in facts["computed"]}
    assert list(found) == [make["asset"] for make in facts["make"]]
    base = found["base_checkpoint"]
    assert base["ranks"] == 8 and base["problem"] is None
    assert base["flops"] == pytest.approx(base["seconds"] * 0.38 * 312e12 * 8)
    assert base["dollars"] == pytest.approx(base["seconds"] / 3600 * 8 * 1.5)
    assert base["memory"]["weights"] == base["memory"]["gradients"] > 0
    text = shell.run(CLI, "plan", *options).stdout
    assert out.returncode == 0 and facts["problem"] is None and "a host with 8 GPUs" in facts["missing_here"]
    assert "It could not be made with what is here now: no host could ever run these stages" in text
    assert "Computed, not measured, for 8 x a100, $1.5 each an hour, training at 38% of the bf16 peak" in text
    assert "GB of one GPU" in text and "rollout_cache" in text
    small = shell.run(CLI, "plan", "--profile", "d26", "--gpu", "L4")
    assert small.returncode == 1
    assert "base_checkpoint needs about" in small.stdout and "more than 80% of the 24 GB of L4" in small.stdout
    wrong = shell.run(CLI, "plan", "--depth", "10", "--utilization", "38")
    assert wrong.returncode == 2 and "--utilization 38 is not a share of the peak" in wrong.stderr
    assert shell.run(CLI, "plan", "--profile", "tiny", "--depth", "10").returncode == 2
