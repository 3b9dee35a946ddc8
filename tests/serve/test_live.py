"""The live page: jobs as their folders tell of them, and curves while they grow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.applications import Starlette

from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.job import job_dir
from aquarat_core.serving.catalog import Catalog
from aquarat_core.serving.runs import curves, folders
from aquarat_core.serving.runs import routes as runs
from tests.patience import limit
from tests.serve.web_store import HOSTILE, WebStore, curve, get, running

RUN = "11111111-aaaa-bbbb-cccc-222222222222"


@pytest.fixture
def url(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(folders, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(folders, "LISTING_SHARE", 0)
    with running(Starlette(routes=runs.routes(Catalog(store_uri)))) as address:
        yield address


def launched(uri: str, step: str = "sft_checkpoint", attempt: int = 1, run: str = RUN) -> JobDir:
    folder = job_dir(open_backend(uri), run, step, attempt)
    folder.write_json(
        "launch.json", {"spec": {"stage": step, "profile": "demo", "inputs": {}}, "retry": 0, "events": {}}
    )
    folder.write_json("hosts.json", {"hosts": ["a100-1"]})
    return folder


def beat(folder: JobDir, **changed: object) -> None:
    status = {"node": 0, "host": "a100-1", "state": "running", "sequence": 3, "chunks": 0, "supervisor": {}}
    folder.write_json("status/node0.json", status | changed)


def say(folder: JobDir, number: int, *progress: tuple[int, dict[str, Any]], total: int = 100) -> None:
    """A chunk of output with progress messages."""
    messages = [
        {"method": "report_custom_message", "params": {"payload": {
            "aquarat": "progress", "done": done, "total": total, "unit": "steps", "metrics": metrics}}}
        for done, metrics in progress
    ]  # fmt: skip
    folder.create_json(f"output/node0/{number:06d}.json", {"lines": ["a line"], "messages": messages})


def listed(url: str) -> dict[str, dict[str, Any]]:
    return {job["id"]: job for job in get(f"{url}/runs/data").json()["jobs"]}


def test_an_empty_store_has_nothing_to_show(url: str) -> None:
    found = get(f"{url}/runs/data").json()
    assert found["jobs"] == [] and found["checkpoints"] == []


def test_a_running_stage_shows_its_progress_and_the_time_it_needs(url: str, store_uri: str) -> None:
    folder = launched(store_uri)
    assert listed(url)[f"{RUN}/sft_checkpoint/1"]["state"] == "starting"
    beat(folder)
    say(folder, 1, (10, {"train/loss": 2.5, "train/tokens_per_second": 9000.0, "time/eta": 321.0}))
    (job,) = listed(url).values()
    assert (job["state"], job["profile"], job["hosts"], job["stage"]) == (
        "running",
        "demo",
        ["a100-1"],
        "sft_checkpoint",
    )
    assert (job["progress"]["done"], job["progress"]["total"], job["progress"]["eta"]) == (10, 100, 321.0)
    assert job["progress"]["metrics"]["train/loss"] == 2.5


def test_without_the_trainers_estimate_the_speed_so_far_counts(store_uri: str) -> None:
    folder = launched(store_uri)
    beat(folder)
    for number, done in ((1, 1), (2, 25)):
        say(folder, number, (done, {}))
        path = Path(store_uri.removeprefix("file://"), folder.prefix, "output", "node0", f"{number:06d}.json")
        os.utime(path, (1_000_000 + 50 * number, 1_000_000 + 50 * number))
    jobs = folders.Jobs(ArtifactStore.open(store_uri))
    found = curves.Curves(jobs).progress(jobs.latest()[0][0])
    assert found is not None and found["eta"] == pytest.approx(50 / 25 * 75)


def test_curves_grow_by_what_is_new(url: str, store_uri: str) -> None:
    folder = launched(store_uri)
    beat(folder)
    job = f"{RUN}/sft_checkpoint/1"
    say(folder, 1, (1, {"train/loss": 3.0}), (2, {"train/loss": 2.9, "other": 1.0}))
    first = get(f"{url}/runs/curves", job=job).json()
    assert first["rows"] == [[1, {"train/loss": 3.0}], [2, {"train/loss": 2.9}]] and first["next"] == 1
    say(folder, 2, (3, {"train/loss": 2.5, "train/lr_factor": 0.5}))
    more = get(f"{url}/runs/curves", job=job, after=first["next"]).json()
    assert more["rows"] == [[3, {"train/loss": 2.5, "train/lr_factor": 0.5}]] and more["next"] == 2
    assert get(f"{url}/runs/curves", job=job, after=2).json()["rows"] == []


def test_a_reward_on_another_scale_has_a_curve_of_its_own(url: str, store_uri: str) -> None:
    folder = launched(store_uri)
    beat(folder)
    say(folder, 1, (1, {"rl/mean_reward": 0.4}), (2, {"rl/mean_reward": 0.2, "rl/exact_reward": 0.2}))
    found = get(f"{url}/runs/curves", job=f"{RUN}/sft_checkpoint/1").json()
    assert found["rows"] == [[1, {"rl/mean_reward": 0.4}], [2, {"rl/exact_reward": 0.2}]]


def test_nothing_is_sent_again_while_nothing_changes(url: str, store_uri: str) -> None:
    beat(launched(store_uri))
    first = get(f"{url}/runs/data")
    headers = {"If-None-Match": first.headers["etag"]}
    again = requests.get(f"{url}/runs/data", headers=headers, timeout=limit(30))
    assert again.status_code == 304 and not again.content
    say(JobDir.at(f"{store_uri}/jobs/{RUN}/sft_checkpoint/1"), 1, (1, {}))
    assert requests.get(f"{url}/runs/data", headers=headers, timeout=limit(30)).status_code == 200


def test_a_long_job_is_read_in_part(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MAX_CHUNKS", 30)
    folder = launched(store_uri)
    for number in range(1, 101):
        say(folder, number, (number, {"train/loss": float(number)}))
    jobs = folders.Jobs(ArtifactStore.open(store_uri))
    found = curves.Curves(jobs).of_job(jobs.latest()[0][0], 0)
    steps = [step for step, _ in found["rows"]]
    assert steps[0] == 1 and steps[-20:] == list(range(81, 101)) and len(steps) == 28 and found["next"] == 100


def test_each_way_to_end_is_told(url: str, store_uri: str) -> None:
    def folder(step: str) -> JobDir:
        made = launched(store_uri, step)
        beat(made)
        return made

    error = {"type": "StageError", "message": f"no rows: {HOSTILE}", "user": True}
    folder("a").write_json("result.json", {"ok": True, "manifest_sha256": "ab" * 32})
    folder("b").write_json("result.json", {"ok": False, "error": error})
    folder("c").write_json("result.json", {"ok": False, "error": {**error, "type": "Stopped", "message": "bye"}})
    folder("d").write_json("cancel.json", {"reason": "by hand"})
    folder("e").write_json("superseded.json", {"by": 2})
    beat(launched(store_uri, "f"), state="ended", code=137, reason="the host ran out of memory")
    states = {id.split("/")[1]: job for id, job in listed(url).items()}
    assert {step: job["state"] for step, job in states.items()} == {
        "a": "finished", "b": "failed", "c": "stopped", "d": "stopping", "e": "replaced", "f": "failed"
    }  # fmt: skip
    assert states["a"]["artifact"] == "ab" * 32
    assert "no rows: <script>" in states["b"]["why"] and "\u202e" not in states["b"]["why"]
    assert states["f"]["why"] == "the host ran out of memory"


def test_a_host_that_says_nothing_is_silent(url: str, store_uri: str) -> None:
    folder = launched(store_uri)
    beat(folder)
    old = time.time() - 600
    os.utime(Path(store_uri.removeprefix("file://"), folder.prefix, "status", "node0.json"), (old, old))
    (job,) = listed(url).values()
    assert job["state"] == "silent" and job["why"] == "the last heartbeat is 10 minutes old"


def test_damaged_records_hide_nothing_else(url: str, store_uri: str) -> None:
    root = Path(store_uri.removeprefix("file://"))
    good = launched(store_uri, "good")
    beat(good)
    say(good, 1, (5, {"train/loss": 1.0}))
    for step, name, content in (
        ("deep", "result.json", b"[" * 100_000),
        ("cut", "launch.json", b'{"spec": '),
        ("kinds", "status/node0.json", b'{"state": 7, "sequence": "x", "chunks": -1}'),
    ):
        path = root / launched(store_uri, step).prefix / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (root / good.prefix / "output" / "node0" / "000002.json").write_bytes(b"\xff\xfe")
    (root / "jobs" / "stray").write_bytes(b"x")
    states = {id.split("/")[1]: job["state"] for id, job in listed(url).items()}
    assert states == {"good": "running", "deep": "damaged", "cut": "damaged", "kinds": "damaged"}
    assert get(f"{url}/runs/curves", job=f"{RUN}/good/1").json()["rows"] == [[5, {"train/loss": 1.0}]]


def test_hostile_messages_are_left_out(url: str, store_uri: str) -> None:
    folder = launched(store_uri)
    beat(folder)
    payloads: list[object] = [
        None, [], "x", {"aquarat": "progress"}, {"aquarat": "progress", "done": -1, "total": 5, "metrics": {}},
        {"aquarat": "progress", "done": True, "total": 5, "metrics": {}},
        {"aquarat": "progress", "done": 1, "total": 5,
         "metrics": {"train/loss": "NaN", HOSTILE: 1, "rl/lr_factor": 10**400}},
    ]  # fmt: skip
    messages = [{"params": {"payload": payload}} for payload in payloads] + [{"params": None}, {}]
    folder.create_json("output/node0/000001.json", {"lines": [], "messages": messages})
    assert get(f"{url}/runs/curves", job=f"{RUN}/sft_checkpoint/1").json()["rows"] == []
    (job,) = listed(url).values()
    assert job["progress"]["done"] == 1 and "\u202e" not in json.dumps(job["progress"], ensure_ascii=False)


def test_a_stored_checkpoint_has_its_curves(tmp_path: Path, url: str, store_uri: str) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    assert [one["id"] for one in get(f"{url}/runs/data").json()["checkpoints"]] == [web.rl.sha256, web.sft.sha256]
    rows = get(f"{url}/runs/curves", artifact=web.rl.sha256).json()["rows"]
    assert rows[0] == [1, {"train/loss": 3.0, "train/lr_factor": 1.0}] and len(rows) == 40
    reply = get(f"{url}/runs/curves", artifact="aqua_dataset")
    assert reply.status_code == 400 and "keeps no metrics.jsonl" in reply.json()["error"]["message"]
    assert get(f"{url}/runs/curves", job="no/such/1").status_code == 404


def test_a_line_of_a_killed_process_is_left_out(tmp_path: Path, store_uri: str) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    lines = curve(3) + '{"step": "x", "train/loss": 1}\n[]\nnull\n{"step": 4, "train/lo'
    made = web.publish("base_checkpoint", "checkpoint", {"x": b"x"}, records={"metrics.jsonl": lines.encode()})
    assert [step for step, _ in curves.of_artifact(made)["rows"]] == [1, 2, 3]


def test_rare_metrics_survive_thinning() -> None:
    rows = [(i, {"train/loss": 1.0} | ({"val/bpb": 2.0} if i % 500 == 0 else {})) for i in range(1, 5001)]
    found = curves.thinned(rows, 100)
    assert len(found) <= 112 and found[-1][0] == 5000
    assert [step for step, metrics in found if "val/bpb" in metrics] == list(range(500, 5001, 500))
