"""An offline W&B run, read back from its file: the rows of `metrics.jsonl`, also after a restart."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aquarat_core.artifacts import CodeVersion
from aquarat_core.config import WandbConfig
from aquarat_core.stages.base import StageContext, StageSpec
from aquarat_core.tracking import metrics
from aquarat_core.tracking.metrics import METRICS_FILE, MetricLog, metric_log
from tests.patience import limit
from tests.serving import free_port, serving

BLOCK, HEADER = 32 * 1024, 7


def records(path: Path) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format after a header of seven bytes."""
    data, at, parts = path.read_bytes(), HEADER, []
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        at += HEADER
        if kind == 0:
            return
        parts.append(data[at : at + length])
        at += length
        if kind in (1, 4):  # whole, or the last part of one
            yield b"".join(parts)
            parts = []


def history(path: Path) -> list[dict[str, float]]:
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            rows.append({name: items[name] for name in ("_step", "train/loss") if name in items})
    return rows


def context(folder: Path, attempt: int) -> StageContext:
    spec = StageSpec(
        stage="base_checkpoint", store="memory://x", profile="unit", config={"steps": 3}, inputs={},
        code=CodeVersion(version="c0de" * 16, commit=None, dirty=True), run_id="0123456789", step_key="base_checkpoint",
        attempt=attempt,
    )  # fmt: skip
    records = folder / f"attempt-{attempt}" / "records"
    records.mkdir(parents=True)
    return StageContext(spec=spec, config=None, inputs={}, outdir=folder, extras_dir=records)


def test_a_run_that_was_killed_is_one_run_with_all_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    first = context(tmp_path, 1)
    with metric_log(first, WandbConfig()) as log:
        log.row(1, **{"train/loss": 3.0})
        saved = log.state_dict()
        log.row(2, **{"train/loss": 2.0})
    again = context(tmp_path, 2)
    with metric_log(again, WandbConfig(), continued=first.wandb["run_id"]) as log:
        log.load_state_dict(saved)
        log.row(2, **{"train/loss": 2.0})
        log.row(3, **{"train/loss": 1.0})
    assert again.wandb == first.wandb == {"run_id": "base_checkpoint-01234567", "mode": "offline", "url": None}
    (kept,) = again.extras_dir.glob("wandb/offline-run-*/run-base_checkpoint-01234567.wandb")
    expected = [{"_step": n, "train/loss": 4.0 - n} for n in (1, 2, 3)]
    assert history(kept) == expected
    rows = [json.loads(line) for line in (again.extras_dir / METRICS_FILE).read_text().splitlines()]
    assert rows == [{"step": row["_step"], "train/loss": row["train/loss"]} for row in expected]


class Server(ThreadingHTTPServer):
    """Stands for W&B's: takes connections and answers none (`hangs`), or refuses every key."""

    daemon_threads = True

    def __init__(self, hangs: bool) -> None:
        over = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if hangs:
                    over.wait()
                    return
                self.send_response(401)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.over = over
        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that hangs or refuses, or one where nobody listens."""
    if request.param == "dead":
        yield f"http://127.0.0.1:{free_port()}"
        return
    with Server(hangs=request.param == "hangs") as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.over.set()
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("server", ["dead", "hangs", "refuses"], indirect=True)
def test_a_server_out_of_reach_leaves_the_stage_an_offline_run(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real client; the stage waits for the server once, for a bounded time, and keeps what can be synced later."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.setattr(metrics, "WANDB_START_SECONDS", 3.0)
    ctx = context(tmp_path, 1)
    with metric_log(ctx, WandbConfig()) as log:
        log.row(1, **{"train/loss": 3.0})
        log.row(2, **{"train/loss": 2.0})
    assert ctx.wandb == {"run_id": "base_checkpoint-01234567", "mode": "offline", "url": None}
    (kept,) = ctx.extras_dir.glob("wandb/offline-run-*/run-base_checkpoint-01234567.wandb")
    assert history(kept) == [{"_step": 1, "train/loss": 3.0}, {"_step": 2, "train/loss": 2.0}]
    said = capsys.readouterr().err
    assert said.count("W&B does not start (") == 1 and "the stage continues offline, to be sent later" in said
    assert f"wandb sync wandb/{kept.parent.name}" in said
    assert len((ctx.extras_dir / METRICS_FILE).read_text().splitlines()) == 2


class LostServer(ThreadingHTTPServer):
    """Takes a run as W&B's server does; once `lost` is set it answers nothing (`hangs`) or refuses every request."""

    daemon_threads = True

    def __init__(self, hangs: bool) -> None:
        lost, over, steps = threading.Event(), threading.Event(), list[int]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                if not lost.is_set():
                    body = json.dumps(self.answer(sent)).encode()
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                elif hangs:
                    over.wait()
                else:
                    self.send_response(404)
                    self.end_headers()

            def answer(self, sent: bytes) -> dict[str, object]:
                if self.path.endswith("file_stream"):
                    rows = json.loads(sent)["files"].get("wandb-history.jsonl", {"content": []})["content"]
                    steps.extend(json.loads(row)["_step"] for row in rows)
                if b"CreateRunFiles" in sent:
                    return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}}
                if b"UpsertBucket" not in sent:
                    return {"data": {}}
                project = {"id": "p", "name": "aquarat", "entity": {"id": "e", "name": "someone"}}
                bucket = {"id": "b", "name": json.loads(sent)["variables"]["name"], "config": "{}", "project": project}
                return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}

            def log_message(self, *_: object) -> None: ...

        self.lost, self.over, self.steps = lost, over, steps
        super().__init__(("127.0.0.1", 0), Handler)


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "refuses"])
def test_a_server_lost_in_mid_run_leaves_what_can_be_sent_later(
    hangs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real client: the run was taken online, then the server goes; a client that is refused says no word of it."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(metrics, "WANDB_FINISH_SECONDS", 3.0)
    ctx = context(tmp_path, 1)
    with serving(LostServer(hangs)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        with metric_log(ctx, WandbConfig()) as log:
            server.lost.set()
            log.row(1, **{"train/loss": 3.0})
            log.row(2, **{"train/loss": 2.0})
        server.over.set()
        server.lost.clear()
        assert ctx.wandb is not None and ctx.wandb["mode"] == "online" and server.steps == []
        (kept,) = ctx.extras_dir.glob("wandb/run-*/run-base_checkpoint-01234567.wandb")
        assert history(kept) == [{"_step": 1, "train/loss": 3.0}, {"_step": 2, "train/loss": 2.0}]
        assert len((ctx.extras_dir / METRICS_FILE).read_text().splitlines()) == 2
        command = f"sync --include-online wandb/{kept.parent.name}"
        if hangs:
            said = capsys.readouterr().err
            assert "the W&B run was not finished (" in said and f"records: wandb {command}" in said
        client = [sys.executable, "-m", "wandb", *command.split()]
        # The client waits longer and longer after what has failed.
        subprocess.run(client, cwd=ctx.extras_dir, check=True, capture_output=True, timeout=limit(300))
        assert server.steps == [1, 2]


def test_a_client_that_fails_later_ends_no_stage(tmp_path: Path) -> None:
    class Failing:
        def log(self, values: object, step: int) -> None:
            raise BrokenPipeError("the client's process has gone")

        def finish(self) -> None:
            raise TimeoutError

    said: list[str] = []
    for run in (Failing(), Failing()):
        log = MetricLog(tmp_path / METRICS_FILE, run, warn=said.append)
        log.row(1, **{"train/loss": 1.0})
        log.row(2, **{"train/loss": 1.0})
        log.close()
        assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 2
    assert len(said) == 2 and said[0].startswith(
        "W&B accepts no more metrics from this stage (the client's process has gone)"
    )
