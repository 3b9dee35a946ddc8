"""What Dagster calls an asset's latest and what the store's ref names: they move together, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._daemon.monitoring import RESUME_RUN_LOG_MESSAGE

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.cli import main
from aquarat_core.config import load_profile
from aquarat_core.maintenance.collect import DAY, clock, find_garbage
from aquarat_core.stages.base import SPEC_SHA256, StageSpec
from aquarat_pipeline.assets import maintenance
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.runs import profiles
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

ASSET = "aqua_dataset"


def named_by_both(chain: Chain, store: ArtifactStore) -> str:
    """The manifest that ref and Dagster name alike."""
    sha256 = chain.latest(ASSET).metadata["manifest_sha256"].value
    assert store.latest(ASSET).sha256 == sha256
    return sha256


def started_but_unwatched(chain: Chain, store: ArtifactStore, run_id: str) -> str:
    """A job that a control host started and nobody watches publishes; the manifest that its result names."""
    spec = StageSpec(
        stage=ASSET, store=store.uri, profile="demo", config=None, inputs={},
        code=CodeVersion(version="v"), run_id=run_id, step_key=ASSET,
    )  # fmt: skip
    attempt = Attempt.create(chain.instance, store, spec, 0, {})
    env = {**os.environ, SPEC_SHA256: attempt.spec_sha256, "TOY_AQUA_DATASET": json.dumps({"content": "unwatched"})}
    command = [sys.executable, "-m", "tests.pipeline.toy_stage", f"{attempt.folder.uri}/spec.json"]
    subprocess.run(command, env=env, check=True, cwd=Path(__file__).parents[2])
    return attempt.folder.read_json("result.json")["manifest_sha256"]


def test_a_job_that_nobody_watches_does_not_move_the_ref(chain: Chain, store_uri: str) -> None:
    store = ArtifactStore.open(store_uri)
    run = chain.instance.create_run_for_job(chain.defs.resolve_implicit_global_asset_job_def())
    assert chain.materialize(ASSET).success
    newer = named_by_both(chain, store)
    made = started_but_unwatched(chain, store, run.run_id)
    assert store.get(made).is_complete() and made != newer
    assert named_by_both(chain, store) == newer


def test_gc_keeps_a_result_that_is_not_collected_yet_for_a_week(chain: Chain, store_uri: str) -> None:
    store = ArtifactStore.open(store_uri)
    run = chain.instance.create_run_for_job(chain.defs.resolve_implicit_global_asset_job_def())
    made = started_but_unwatched(chain, store, run.run_id)

    def goes(days: float) -> bool:
        garbage = find_garbage(store, now=clock(store) + days * DAY)
        return f"manifests/{made}.json" in {stat.key for stat in garbage.objects}

    assert not goes(6) and goes(8)


def test_a_resumed_run_does_not_replace_what_a_newer_one_made(
    chain: Chain, order: Callable[..., None], store_uri: str
) -> None:
    """The older run's worker dies, the newer run succeeds, and the older one is taken up again."""
    store, keys = ArtifactStore.open(store_uri), frozenset([dg.AssetKey(ASSET)])
    job = chain.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys)
    older, resumed = (chain.instance.create_run_for_job(job, asset_selection=keys) for _ in range(2))
    order(ASSET, content="newer")
    assert chain.materialize(ASSET).success
    newer = named_by_both(chain, store)
    order(ASSET, content="older")
    # An older run that was never interrupted may be slow: who finishes last is the latest, for both.
    assert not [e for e in execute_run_iterator(InMemoryJob(job), older, chain.instance) if e.is_step_failure]
    last = named_by_both(chain, store)
    assert last != newer
    chain.instance.report_engine_event(RESUME_RUN_LOG_MESSAGE, resumed)
    events = list(execute_run_iterator(InMemoryJob(job), resumed, chain.instance))
    text = next(e for e in events if e.is_step_failure).step_failure_data.user_failure_data.description
    assert "which is newer, has materialized aqua_dataset since, so this older, resumed run" in text
    assert named_by_both(chain, store) == last


def test_a_difference_is_said_and_mended(
    chain: Chain, order: Callable[..., None], store_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ArtifactStore.open(store_uri)
    assert chain.materialize(ASSET).success
    first = store.latest(ASSET)
    order(ASSET, content="second")
    assert chain.materialize(ASSET).success
    second = named_by_both(chain, store)
    assert main(["refs"]) == 0 and "name the same latest artifact" in capsys.readouterr().out
    store.make_latest(first)
    assert main(["refs"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == [ASSET, second[:12], first.sha256[:12]]
    assert main(["refs", "--mend"]) == 0
    assert named_by_both(chain, store) == second


def test_prune_forgets_old_runs_but_not_what_made_the_latest(
    chain: Chain, store_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, latest = chain.materialize(ASSET), chain.materialize(ASSET)
    home = Path(chain.instance.root_directory)
    log = home / "aquarat" / "workers" / f"{old.run_id}.log"
    log.parent.mkdir(parents=True)
    log.write_text("said")
    assert main(["prune", "--delete"]) == 0 and capsys.readouterr().out.startswith("0 runs of ")
    known = profiles.remember(home, load_profile("tiny"))
    profiles.remember(home, load_profile("d12"))
    chain.instance.add_run_tags(latest.run_id, known)
    later = time.time() + 91 * 86_400
    monkeypatch.setattr(maintenance.time, "time", lambda: later)
    assert main(["prune"]) == 0 and "1 runs of " in capsys.readouterr().out
    assert chain.instance.get_run_by_id(old.run_id) is not None
    assert main(["prune", "--delete"]) == 0 and "1 runs of " in capsys.readouterr().out
    assert chain.instance.get_run_by_id(old.run_id) is None
    assert not list(home.rglob(f"*{old.run_id}*"))
    assert chain.instance.get_run_by_id(latest.run_id) is not None
    (left,) = (home / "aquarat" / "profiles").iterdir()
    assert left == profiles.recall(home, known)
    assert named_by_both(chain, ArtifactStore.open(store_uri))
