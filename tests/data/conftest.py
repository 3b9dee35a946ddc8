"""A loopback Hub that serves a folder of data sets to the real clients, and a way to run a stage against it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.serving import serving

REPO_ROOT = Path(__file__).parents[2]

RUN_STAGE = """
import importlib, json, os, sys
from pathlib import Path
from types import SimpleNamespace
from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import Profile
from aquarat_core.data import hub_client
from aquarat_core.stages.base import StageContext
hub_client.WAITS = tuple(seconds / 50 for seconds in hub_client.WAITS)
stage, config, out = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
config = Profile.model_fields[stage].annotation.model_validate(config)
messages = []
context = StageContext(spec=None, config=config, inputs={}, outdir=out, extras_dir=out, send=messages.append)
if uri := os.environ.get("SHARDS"):
    context.spec, context.shards = SimpleNamespace(stage=stage), ArtifactStore.open(uri)
try:
    result = {"metrics": importlib.import_module("aquarat_core.stages." + stage).run(context)}
except ValueError as e:
    result = {"error": type(e).__name__, "message": str(e)}
stored = {entry.path: entry.sha256 for entry in context.stored}
print(json.dumps(result | {"messages": messages, "stored": stored}))
"""


@dataclass
class StageRun:
    """What a stage said and wrote."""

    metrics: dict[str, Any] | None
    error: str | None
    message: str
    progress: list[dict[str, Any]]
    log: str
    out: Path
    stored: dict[str, str]
    """SHA-256 of the files that are in the store which the variable SHARDS names."""


RunStage = Callable[..., StageRun]


@pytest.fixture
def run_stage(tmp_path: Path) -> RunStage:
    """`run_stage(stage, config, endpoint)`: runs it in a process of its own, with a Hub cache for this test alone."""

    def run(
        stage: str,
        config: dict[str, Any],
        endpoint: str = "http://127.0.0.1:9",
        out: str = "out",
        environment: dict[str, str] | None = None,
    ) -> StageRun:
        held = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(REPO_ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", RUN_STAGE, stage, json.dumps(config), str(tmp_path / out)],
            env=os.environ | held | (environment or {}),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout.splitlines()[-1])
        return StageRun(
            result.get("metrics"), result.get("error"), result.get("message", ""), result["messages"], done.stderr,
            tmp_path / out, result["stored"],
        )  # fmt: skip

    return run


@dataclass
class LoopbackHub:
    """Data sets in a folder, and how many downloads of Parquet files still go wrong."""

    root: Path
    endpoint: str = ""
    fail: int = 0
    """Answered with 503."""
    truncate: int = 0
    """Cut in half."""
    lie: str = ""
    """Name of a file that comes with another byte at its end than its digest says."""
    shrink: str = ""
    """Name of a file that loses its second half after it was listed."""
    downloads: list[str] = field(default_factory=list)

    def add(self, repo: str, files: dict[str, list[dict[str, Any]] | bytes], configs: dict[str, list[str]]) -> None:
        """Write a data set: its Parquet files (or raw bytes) by path, and the splits of each subset."""
        lines = ["---", "configs:"]
        for subset, splits in configs.items():
            lines += [f"- config_name: {subset}", "  data_files:"]
            for split in splits:
                lines += [f"  - split: {split}", f"    path: {subset}/{split}-*"]
        base = self.root / repo
        base.mkdir(parents=True)
        (base / "README.md").write_text("\n".join([*lines, "---", ""]) if configs else "---\nlicense: mit\n---\n")
        for path, rows in files.items():
            (base / path).parent.mkdir(exist_ok=True)
            if isinstance(rows, bytes):
                (base / path).write_bytes(rows)
            else:
                pq.write_table(pa.Table.from_pylist(rows), base / path)


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True

        def answer_json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def missing(self, code: str) -> None:
            self.answer(404, b"", {"X-Error-Code": code, "X-Error-Message": code})

        def entry(self, base: Path, path: Path) -> dict[str, Any]:
            kind = "directory" if path.is_dir() else "file"
            size = 0 if path.is_dir() else path.stat().st_size
            described = {"type": kind, "path": str(path.relative_to(base)), "size": size, "oid": "0" * 40}
            if kind == "file":
                oid = hashlib.sha256(path.read_bytes()).hexdigest()
                described["lfs"] = {"oid": oid, "size": size, "pointerSize": 130}
            return described

        def api(self, parts: list[str], asked: list[str]) -> None:
            base = hub.root / "/".join(parts[2:4])
            if parts[1:2] != ["datasets"] or not (base / "README.md").is_file():
                return self.missing("RepoNotFound")
            match parts[4:5]:
                case ["tree"]:
                    folder = base / "/".join(parts[6:])
                    return self.answer_json([self.entry(base, p) for p in sorted(folder.iterdir())])
                case ["paths-info"]:
                    self.answer_json([self.entry(base, base / p) for p in asked if (base / p).exists()])
                    if hub.shrink:
                        path = base / hub.shrink
                        rows = pq.read_table(path)
                        pq.write_table(rows.slice(0, len(rows) // 2), path)
                        hub.shrink = ""
                    return None
                case _:
                    name = "/".join(parts[2:4])
                    files = [{"rfilename": str(p.relative_to(base))} for p in base.rglob("*") if p.is_file()]
                    about = {"id": name, "_id": "0" * 24, "sha": commit(base), "siblings": files, "tags": []}
                    return self.answer_json(about | {"private": False, "gated": False, "disabled": False})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = self.headers["Content-Type"] == "application/x-www-form-urlencoded"
            paths = parse_qs(body).get("paths", []) if form else json.loads(body).get("paths", [])
            self.api(unquote(urlparse(self.path).path).strip("/").split("/"), paths)

        def do_GET(self) -> None:
            parts = unquote(urlparse(self.path).path).strip("/").split("/")
            if parts[0] == "api":
                return self.api(parts, [])
            base = hub.root / "/".join(parts[1:3])
            if not (base / "README.md").is_file():
                return self.missing("RepoNotFound")
            path = base / "/".join(parts[5:])
            if not path.is_file():
                return self.missing("EntryNotFound")
            body, cut = path.read_bytes(), False
            if self.command == "GET" and path.suffix == ".parquet":
                hub.downloads.append(path.name)
                if hub.fail > 0:
                    hub.fail -= 1
                    return self.answer(503, b"")
                cut = hub.truncate > 0
                hub.truncate -= cut
            tag = hashlib.sha256(body).hexdigest()
            if path.name == hub.lie:
                body = body[:-1] + b"!"
            self.answer(200, body, {"ETag": f'"{tag}"', "X-Repo-Commit": commit(base)}, cut)

        do_HEAD = do_GET

    return Handler


def commit(base: Path) -> str:
    """A commit hash for the present content of a repository."""
    digest = hashlib.sha1()
    for path in sorted(p for p in base.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(base)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """An empty Hub on a free port of 127.0.0.1."""
    served = LoopbackHub(tmp_path / "served")
    served.root.mkdir()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))) as server:
        served.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield served
