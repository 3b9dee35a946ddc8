"""Stores that cannot be used say what is wrong and what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from aquarat_core.artifacts import ArtifactStore, StoreError

from .conftest import Publish


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket/x", "unknown scheme 's3': use file://, gs:// or memory://"),
        ("dagster_home/store", "is not an absolute path: write file:///absolute/path"),
        ("file://host/x", "is not an absolute path"),
        ("", "is not an absolute path"),
        ("gs://", "does not name a bucket: write gs://bucket"),
        ("gs:///x", "does not name a bucket"),
        ("gs://Not A Bucket/x", "does not name a bucket"),
    ],
)
def test_a_uri_that_is_none(uri: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        ArtifactStore.open(uri)


@pytest.mark.parametrize("below", ["file", "file/store", "file/a/b"])
def test_a_store_below_a_regular_file(tmp_path: Path, publish: Publish, below: str) -> None:
    (tmp_path / "file").write_text("I am no directory")
    store = ArtifactStore.open(f"file://{tmp_path}/{below}")
    for use in (store.check_writable, lambda: publish(store, "x", {"a": b"1"})):
        with pytest.raises(StoreError, match=r"a file, not a directory \(.*\)\. Set AQUARAT_STORE") as error:
            use()
        assert f"store file://{tmp_path}/{below} cannot be used" in str(error.value)
    assert (tmp_path / "file").read_text() == "I am no directory"


def test_a_store_where_nothing_can_be_created() -> None:
    store = ArtifactStore.open("file:///proc/aquarat")
    assert store.latest("x") is None
    with pytest.raises(StoreError, match=r"store file:///proc/aquarat cannot be used: .*Set AQUARAT_STORE"):
        store.check_writable()


def test_a_full_disk(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (root / "tmp").mkdir()
    monkeypatch.setattr("aquarat_core.artifacts.local.copy", lambda source, *_: _to_full_device(source))
    with pytest.raises(StoreError, match="the disk is full"):
        publish(ArtifactStore.open(f"file://{root}"), "x", {"a": b"1"})
    assert list((root / "tmp").iterdir()) == []


def _to_full_device(source: object) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(source.read())


def test_a_cache_that_cannot_be_written(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "file"))
    art = publish(ArtifactStore.open(f"file://{tmp_path}/store"), "x", {"a": b"1"})
    with pytest.raises(StoreError, match=rf"cache {tmp_path}/file, fetching a, cannot be used: .*Set AQUARAT_CACHE"):
        art.path("a")


def test_a_bucket_that_does_not_exist(gs_uri: str, publish: Publish) -> None:
    store = ArtifactStore.open("gs://no-such-bucket/x")
    uses = [store.check_writable, store.assets, lambda: store.latest("x"), lambda: publish(store, "x", {"a": b"1"})]
    for use in uses:
        with pytest.raises(StoreError, match=r"bucket no-such-bucket .* does not exist: create it with"):
            use()


def test_credentials_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StoreError, match=r"refuses the credentials: .*Run `gcloud auth application-default login`"):
        ArtifactStore.open("gs://some-bucket").latest("x")


class Proxy(ThreadingHTTPServer):
    """Stands before the emulator and spoils answers."""

    forbid = False
    """Answer every request 403."""
    lose = 0
    """Carry out so many writes and then answer 503, as if the real answer had been lost."""

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding")}
        if self.server.forbid:
            return self._answer(403, json.dumps({"error": {"message": "no storage.objects.create access"}}).encode())
        answer = requests.request(self.command, self.server.target + self.path, data=body, headers=headers, timeout=10)
        if self.command == "POST" and self.server.lose:
            self.server.lose -= 1
            return self._answer(503, b"{}")
        return self._answer(answer.status_code, answer.content, answer.headers)

    do_GET = do_POST = _forward

    def _answer(self, status: int, body: bytes, headers: object = ()) -> None:
        self.send_response(status)
        for name, value in dict(headers).items():
            if name.lower().startswith(("x-goog", "content-type")):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def proxy(gs_uri: str, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(gcs_url) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def test_access_that_is_forbidden(proxy: Proxy, gs_uri: str) -> None:
    proxy.forbid = True
    with pytest.raises(StoreError, match=r"refuses access: .*storage\.objects\.create.*needs roles/storage"):
        ArtifactStore.open(gs_uri).check_writable()


def test_a_claim_whose_answer_was_lost_is_still_won(proxy: Proxy, gs_uri: str) -> None:
    job = ArtifactStore.open(gs_uri).job("run", "step", 1)
    proxy.lose = 1
    assert job.create_json("claim.json", {"worker": 1})
    assert proxy.lose == 0
    assert not job.create_json("claim.json", {"worker": 1})


def test_a_publication_survives_lost_answers(proxy: Proxy, gs_uri: str, publish: Publish) -> None:
    store = ArtifactStore.open(gs_uri)
    publish(store, "x", {"a": b"1"})
    proxy.lose = 1
    art = publish(store, "x", {"a": b"2"})
    assert proxy.lose == 0
    assert store.latest("x").sha256 == art.sha256
    assert art.path("a").read_bytes() == b"2"
