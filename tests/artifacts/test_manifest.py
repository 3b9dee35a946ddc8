"""The manifest's bytes and its two hashes."""

from __future__ import annotations

import hashlib
import json

import pytest

from aquarat_core.artifacts import ArtifactError, CodeVersion, FileEntry, Manifest

HELLO = FileEntry(
    path="a.txt",
    size=5,
    sha256="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    crc32c="mnG7TA==",
)
OTHER = FileEntry(path="b/c.bin", size=0, sha256=hashlib.sha256().hexdigest(), crc32c="AAAAAA==")


def manifest(**changes: object) -> Manifest:
    fields = {
        "asset": "tokenizer",
        "kind": "tokenizer",
        "files": (HELLO, OTHER),
        "config": {"vocab_size": 512, "a": [1, 2.0, None, "ä"]},
        "profile": "demo",
        "code": CodeVersion(version="v", commit="c", dirty=False),
        "parents": (),
        "metrics": {"loss": 1.0, "n": 3, "ok": True, "none": None},
        "seeds": {"seed": 1},
        "libraries": {"python": "3.11"},
        "hardware": {"cores": 2},
        "run_id": "r1",
    }
    return Manifest.create(**(fields | changes))


def test_bytes_are_canonical_and_survive_a_round_trip() -> None:
    m = manifest()
    data = m.to_bytes()
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert Manifest.from_bytes(data) == m
    assert Manifest.from_bytes(data).to_bytes() == data
    assert m.sha256 == hashlib.sha256(data).hexdigest()
    assert '"ä"'.encode() in data
    assert m.metrics == {"loss": 1.0, "n": 3, "ok": True, "none": None}
    assert [type(m.metrics[k]) for k in ("loss", "n", "ok")] == [float, int, bool]


def test_data_version_is_the_hash_of_format_kind_and_files() -> None:
    files = [["a.txt", 5, HELLO.sha256], ["b/c.bin", 0, OTHER.sha256]]
    plain = json.dumps({"files": files, "format": 1, "kind": "tokenizer"}, separators=(",", ":")).encode()
    assert manifest().data_version == hashlib.sha256(plain).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "r2"},
        {"config": {}},
        {"records": (HELLO,)},
        {"metrics": {"seconds": 3.0}},
        {"code": CodeVersion(version="w")},
        {"hardware": {"cores": 64}},
        {"profile": "d20"},
    ],
)
def test_what_varies_between_runs_changes_the_manifest_but_not_the_data_version(change: dict) -> None:
    assert manifest(**change).data_version == manifest().data_version
    assert manifest(**change).sha256 != manifest().sha256


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "checkpoint"},
        {"files": (HELLO,)},
        {"files": (HELLO.model_copy(update={"sha256": "0" * 64}), OTHER)},
        {"files": (HELLO.model_copy(update={"path": "a2.txt"}), OTHER)},
    ],
)
def test_content_changes_the_data_version(change: dict) -> None:
    assert manifest(**change).data_version != manifest().data_version


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "a//b", "a/./b", "a\\b", "a/"])
def test_a_path_outside_the_artifact_is_refused(path: str) -> None:
    raw = json.loads(manifest().to_bytes())
    raw["files"][0]["path"] = path
    with pytest.raises(ArtifactError, match=r"files\.0\.path: .* is not a plain relative path"):
        Manifest.from_bytes(json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"metrics": {"loss": float("nan")}},
            "cannot publish tokenizer: metrics: the metric loss is nan, so its computation went wrong",
        ),
        (
            {"config": {"optim": {"betas": [0.8, float("inf")]}}},
            r"cannot publish tokenizer: config: optim\.betas\.1 is inf, which no manifest can hold",
        ),
        ({"hardware": {"clock": float("nan")}}, "hardware: clock is nan"),
        ({"wandb": {"url": None, "loss": float("-inf")}}, "wandb: loss is -inf"),
        ({"asset": "a/b"}, "'a/b' is not a name"),
        ({"files": (OTHER, HELLO)}, "sorted by path"),
        ({"files": (HELLO, HELLO)}, "each path once"),
        ({"files": ()}, "files: .*at least 1 item"),
        ({"seeds": {"seed": "x"}}, "seeds.seed"),
    ],
)
def test_fields_it_cannot_hold_are_named(change: dict, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        manifest(**change)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "format None"),
        (b'{"format": 2}', "format 2, but this version reads format 1: update aquarat"),
        (b'{"format": 1, "asset": "x"}', "kind: Field required"),
    ],
)
def test_a_manifest_that_is_none_or_newer_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Manifest.from_bytes(data)


def test_created_is_utc() -> None:
    assert manifest().created.endswith("+00:00")
