"""Stores to test against: a directory, memory, and a bucket on a real fake-gcs-server process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, Parent
from tests.artifacts.emulator import BUCKET, emulator
from tests.artifacts.fault_proxy import FaultProxy, fault_proxy
from tests.patience import limit

ROOT = Path(__file__).parents[2]

Publish = Callable[..., Artifact]


@pytest.fixture(scope="session")
def gcs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an emulator with the bucket `BUCKET`."""
    with emulator(tmp_path_factory.mktemp("gcs")) as url:
        yield url


@pytest.fixture
def proxy(gs_uri: str, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the emulator, which clients talk to."""
    with fault_proxy(gcs_url) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))


def new_uri(kind: str, request: pytest.FixtureRequest) -> str:
    """URI of an empty store of that kind."""
    if kind == "file":
        return f"file://{request.getfixturevalue('tmp_path')}/store"
    if kind == "gs":
        request.getfixturevalue("monkeypatch").setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs_url"))
        return f"gs://{BUCKET}/{uuid4().hex}/store"
    return f"memory://{uuid4().hex}"


@pytest.fixture(params=["file", "gs", "memory"])
def uri(request: pytest.FixtureRequest) -> str:
    return new_uri(request.param, request)


@pytest.fixture(params=["file", "gs"])
def shared_uri(request: pytest.FixtureRequest) -> str:
    """A store that several processes can see."""
    return new_uri(request.param, request)


@pytest.fixture
def gs_uri(request: pytest.FixtureRequest) -> str:
    return new_uri("gs", request)


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """`publish(store, asset, files, records={}, parents=[], run_id=..., **fields)` from bytes by path."""

    def publish(
        store: ArtifactStore,
        asset: str,
        files: Mapping[str, bytes],
        records: Mapping[str, bytes] | None = None,
        parents: list[Artifact] | tuple[Parent, ...] = (),
        **fields: object,
    ) -> Artifact:
        folder = tmp_path / "sources" / uuid4().hex
        defaults = {
            "kind": "dataset",
            "config": {"n": 1, "nested": {"seed": 2}},
            "profile": "demo",
            "code": CodeVersion(version="f" * 64, commit="0123456789abcdef" * 2 + "01234567", dirty=False),
            "metrics": {"loss": 1.5},
            "seeds": {"seed": 7},
            "run_id": f"run-of-{asset}",
        }
        return store.publish(
            asset=asset,
            directory=write_files(folder / "files", files),
            records=write_files(folder / "records", records) if records else None,
            parents=[p if isinstance(p, Parent) else p.as_parent() for p in parents],
            **(defaults | fields),
        )

    return publish


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def start(*arguments: object) -> subprocess.Popen[str]:
    """A process that runs `worker.py` with these arguments and this process's environment, once it gets a line."""
    command = [sys.executable, str(Path(__file__).parent / "worker.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def work(*workers: subprocess.Popen[str]) -> list[str]:
    """Lets the workers go at the same moment and gives what each printed; none may complain."""
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=limit(60)) for worker in workers]
    assert [err for _, err in outputs] == [""] * len(workers)
    return [out for out, _ in outputs]
