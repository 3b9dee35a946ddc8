"""`aquarat sweep` over toy stages: what is made once, what a kill and a cancellation leave, and how it goes on."""

from __future__ import annotations

import json
import signal

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.maintenance.verify import verify
from aquarat_pipeline.assets.maintenance import differences
from aquarat_pipeline.tags import EXPERIMENT_TAG, SWEEP_TAG
from tests.sweeps.conftest import Sweeper

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARED = ("aqua_dataset", "chat_datasets", "pretrain_text")


def hows(sweeper: Sweeper) -> list[dict[str, str]]:
    out = sweeper.sweep("--plan", "--json")
    assert out.returncode == 0, out.stderr
    return [point["stages"] for point in json.loads(out.stdout)["points"]]


def test_what_points_share_is_made_once_though_the_sweep_was_killed(sweeper: Sweeper) -> None:
    first, second = hows(sweeper)
    assert set(first.values()) == {"new"}
    assert second == dict.fromkeys(SHARED, "shared") | {"tokenizer": "new", "pretrain_tokens": "new"}
    assert not (sweeper.home / "aquarat" / "experiments").exists(), "a plan adds nothing"

    process = sweeper.started("chat_datasets")
    again = sweeper.sweep()
    assert again.returncode == 2 and f"the sweep lr is running already, in process {process.pid}" in again.stderr
    process.kill()
    process.communicate()
    first, second = hows(sweeper)
    assert (first["aqua_dataset"], second["aqua_dataset"], first["chat_datasets"]) == ("made", "reused", "new")

    out = sweeper.sweep()
    assert out.returncode == 0, out.stderr
    assert "was left unfinished: its stages are started again" in out.stderr
    assert "all 2 points are made" in out.stdout
    assert sweeper.made() == dict.fromkeys(SHARED, 1) | {"tokenizer": 2, "pretrain_tokens": 2}
    assert hows(sweeper) == [dict.fromkeys(first, "made")] * 2
    assert "not reused: lr_" in out.stderr and "which differs in vocab_size 300 -> 400" in out.stderr

    store = ArtifactStore.open(sweeper.environment["AQUARAT_STORE"])
    names = sorted({name.partition("/")[0] for name in store.assets()})
    one, other = ({asset: store.latest(f"{name}/{asset}").sha256 for asset in first} for name in names)
    assert {asset for asset in first if one[asset] == other[asset]} == set(SHARED)
    assert verify(store).problems == ()
    with dg.DagsterInstance.from_config(str(sweeper.home)) as instance:
        assert differences(instance, store) == []
        runs = instance.get_runs()
    assert {run.tags[SWEEP_TAG] for run in runs} == {"lr"} and {run.tags[EXPERIMENT_TAG] for run in runs} == set(names)

    before = len(runs)
    assert sweeper.sweep().returncode == 0
    assert len(sweeper.runs()) == before, "there was nothing left to make"


def test_a_sweep_is_cancelled_as_one_and_goes_on_when_it_is_started_again(sweeper: Sweeper) -> None:
    process = sweeper.started("chat_datasets")
    out = sweeper.sweep("--cancel")
    assert out.returncode == 0 and "the sweep lr is cancelled, with 1 run;" in out.stdout, out.stderr
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT and "To go on: aquarat sweep lr.yaml" in err
    assert [run.status.value for run in sweeper.runs()] == ["CANCELED"]
    assert "with 0 runs" in sweeper.sweep("--cancel").stdout
    out = sweeper.sweep()
    assert out.returncode == 0, out.stderr
    assert sweeper.made() == dict.fromkeys(SHARED, 1) | {"tokenizer": 2, "pretrain_tokens": 2}
    gone = sweeper.sweep("--remove")
    assert gone.stdout.startswith("2 experiments are removed")
    assert hows(sweeper)[0]["tokenizer"] == "made", "what was made stays known"


def test_what_fails_is_said_and_the_rest_is_made(sweeper: Sweeper) -> None:
    sweeper.orders["tokenizer"] = {"user_error": "mend this"}
    out = sweeper.sweep()
    assert out.returncode == 1
    assert "2 of 2 points are not complete" in out.stdout and "mend this" in out.stdout
    assert sweeper.made() == dict.fromkeys(SHARED, 1)
    assert "Traceback" not in out.stderr
