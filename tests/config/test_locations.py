"""Locations in a profile: what a path is relative to, which bytes it stands for, and which URLs are refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from aquarat_core.config import ConfigError, Profile, load_profile
from aquarat_core.config.local_files import pin_of
from aquarat_core.config.locations import HubRows, anchored, shown, without_secrets
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.registry import STAGES


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))


def profile_at(path: Path, **sections: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"extends": "demo", **sections}))
    return path


def with_text(path: Path, train: Any, **fields: Any) -> Profile:
    return load_profile(str(profile_at(path, pretrain_text={"source": "files", "train": train, **fields})))


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "t.jsonl").write_text('{"text": "x"}\n')
    monkeypatch.chdir(tmp_path)
    mine = {"name": "mine", "train": "t.jsonl"}
    parent = profile_at(
        tmp_path / "a" / "parent.yaml", pretrain_text={"source": "files", "train": "t.jsonl"},
        chat_datasets={"sources": [mine, {"name": "identity"}, {"name": "drills"}]},
    )  # fmt: skip
    child = tmp_path / "b" / "child.yaml"
    child.parent.mkdir()
    child.write_text(yaml.safe_dump({"extends": str(parent)}))
    loaded = load_profile(str(child))
    sha256 = hashlib.sha256(b'{"text": "x"}\n').hexdigest()
    assert loaded.pretrain_text.train == f"{tmp_path}/a/t.jsonl#sha256={sha256}"
    assert loaded.chat_datasets.sources[0].train == loaded.pretrain_text.train


def test_a_changed_file_makes_the_stage_stale_and_only_then(tmp_path: Path) -> None:
    data, profile = tmp_path / "t.jsonl", tmp_path / "p.yaml"

    def version() -> str:
        return code_version(STAGES["pretrain_text"], with_text(profile, "t.jsonl").pretrain_text)

    data.write_text("one")
    first = version()
    os.utime(data, ns=(1, 1))
    assert version() == first
    data.write_text("two")
    assert version() != first
    data.write_text("one")
    assert version() == first


def test_the_profile_of_a_run_keeps_the_bytes_it_began_with(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("one")
    loaded = with_text(tmp_path / "p.yaml", "t.jsonl")
    (tmp_path / "kept.yaml").write_bytes(loaded.to_json())
    (tmp_path / "t.jsonl").unlink()
    assert load_profile(str(tmp_path / "kept.yaml")).sha256 == loaded.sha256


def test_folders_and_patterns_have_one_hash(tmp_path: Path) -> None:
    for name, text in (
        ("b.jsonl", "b"),
        ("sub/a.txt", "a"),
        ("notes.pdf", "n"),
        (".hidden.txt", "h"),
        (".git/x.txt", "g"),
    ):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_text(text)
    digests = {"b.jsonl": hashlib.sha256(b"b").hexdigest(), "sub/a.txt": hashlib.sha256(b"a").hexdigest()}
    listed = "".join(f"{digests[name]}  {name}\n" for name in ("b.jsonl", "sub/a.txt"))
    assert pin_of(str(tmp_path / "d")) == hashlib.sha256(listed.encode()).hexdigest()
    assert pin_of(str(tmp_path / "d" / "**" / "*.txt")) == digests["sub/a.txt"]
    with pytest.raises(ValueError, match="has no file that ends in"):
        pin_of(str(tmp_path / "d" / "*.csv"))


def test_a_hash_is_noted_and_a_damaged_note_ignored(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("one")
    os.utime(file, (1, 1))
    sha256 = pin_of(str(file))
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    assert json.loads(note.read_text())["sha256"] == sha256
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": "noted"}))
    assert pin_of(str(file)) == "noted"
    note.write_text('{"state": [')
    assert pin_of(str(file)) == sha256
    file.write_text("new")
    assert pin_of(str(file)) == hashlib.sha256(b"new").hexdigest()


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ("missing.jsonl", "there is no file"),
        ("t.tar", "does not end in .jsonl"),
        ("empty", "has no file that ends in"),
        ("http://example.com/t.jsonl", "http:// is only read from this machine"),
        ("ftp://example.com/t.jsonl", "does not begin with one of file://, gs://"),
        ("simplecache::https://example.com/t.jsonl", "does not begin with one of"),
        ("https://example.com/data/", "does not end in .jsonl"),
        ("https://me:hunter2@example.com/t.jsonl", "contains a password or a token"),
        ("https://example.com/t.jsonl?X-Amz-Signature=hunter2", "contains a password or a token"),
        ("https://example.com/t.jsonl?token=hunter2", "contains a password or a token"),
        ({"hub": "https://example.com"}, "should match pattern"),
        ({"hub": "a/b", "splitt": "x"}, "unknown field"),
        (3, "should be a valid string"),
        (None, "train does not say where they are"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_profile(tmp_path: Path, train: Any, reason: str) -> None:
    (tmp_path / "t.tar").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as refused:
        with_text(tmp_path / "p.yaml", train)
    assert reason in str(refused.value) and "hunter2" not in str(refused.value)


def test_a_relative_path_outside_of_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="the path is relative"):
        load_profile("demo", {"pretrain_text": {"source": "files", "train": "t.jsonl"}})


@pytest.mark.parametrize("train", ["http://127.0.0.1:9/t.jsonl", "gs://b/t/*.parquet", "s3://b/t", "memory://t.csv"])
def test_urls_stay_as_they_are(tmp_path: Path, train: str) -> None:
    assert with_text(tmp_path / "p.yaml", train).pretrain_text.train == train


def test_a_split_of_the_hub(tmp_path: Path) -> None:
    held = with_text(tmp_path / "p.yaml", {"hub": "a/b", "split": "train"}).pretrain_text.train
    assert held == HubRows(hub="a/b", subset="default", split="train")
    assert shown(held) == "a/b, subset default, split train"
    assert shown(HubRows(hub="a/b", first_files=2)) == "a/b, subset default, split train, first_files 2"


def test_secrets_are_not_shown() -> None:
    text = "GET https://me:pw@host/a.jsonl?sig=1&x=2 failed, url='https://h/x?token=3', memory://b.csv"
    assert without_secrets(text) == "GET https://host/a.jsonl failed, url='https://h/x', memory://b.csv"


def test_values_that_do_not_fit_stay_as_they_are() -> None:
    raw = {"pretrain_text": {"train": ["t"], "column": "c"}, "chat_datasets": {"sources": {"name": "x"}}, "other": 1}
    assert anchored(raw, Profile, Path("/p")) == raw


def test_built_in_names_and_own_ones() -> None:
    def loaded(**source: Any) -> Profile:
        return load_profile("demo", {"chat_datasets": {"sources": [source, {"name": "identity"}, {"name": "drills"}]}})

    with pytest.raises(ConfigError, match="'mine' is not a built-in data set"):
        loaded(name="mine")
    with pytest.raises(ConfigError, match="smoltalk is the name of a built-in data set"):
        loaded(name="smoltalk", train="gs://b/t.jsonl")
    with pytest.raises(ConfigError, match="should match pattern"):
        loaded(name="../mine", train="gs://b/t.jsonl")
    with pytest.raises(ConfigError, match="names a data set twice"):
        loaded(name="drills")
    assert loaded(name="mine", train="gs://b/t.jsonl").chat_datasets.sources[0].kept("train") is None
