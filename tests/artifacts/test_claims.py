"""`verify` believes nothing that it can check, and copying neither follows links nor spreads damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactError, ArtifactStore
from aquarat_core.artifacts.lineage import lineage
from aquarat_core.artifacts.manifest import FileEntry, Manifest, canonical
from aquarat_core.artifacts.store import blob_key
from aquarat_core.maintenance.copying import folder_of, pull, push, with_ancestors
from aquarat_core.maintenance.verify import verify

from .conftest import Publish


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("lie", ["asset", "data_version", "run_id"])
def test_verify_finds_a_parent_entry_that_lies(uri: str, publish: Publish, lie: str, read: bool) -> None:
    store = ArtifactStore.open(uri)
    data = publish(store, "data", {"f": b"1"})
    said = data.as_parent().model_copy(update={lie: "f" * 64})
    made = publish(store, "model", {"w": b"w"}, parents=(said,))
    (problem,) = verify(store, read=read).problems
    assert f"model (manifest {made.sha256[:12]})" in problem and lie in problem and "f" * 64 in problem
    assert verify(store, [made.sha256], read=read).problems == (problem,)
    assert verify(store, [data.sha256], read=read).problems == ()


def test_verify_finds_refs_and_pins_that_lie(uri: str, publish: Publish) -> None:
    store = ArtifactStore.open(uri)
    tokenizer = publish(store, "tokenizer", {"f": b"1"})
    facts = {"manifest_sha256": tokenizer.sha256, "data_version": tokenizer.data_version}
    store.backend.write("refs/rl_checkpoint/latest.json", canonical({"asset": "rl_checkpoint", **facts}))
    with pytest.raises(ArtifactError, match=r"refs/rl_checkpoint/latest.json names an artifact of tokenizer"):
        store.latest("rl_checkpoint")
    (problem,) = verify(store).problems
    assert "refs/rl_checkpoint/latest.json names tokenizer" in problem
    store.backend.delete("refs/rl_checkpoint/latest.json")
    store.backend.write(
        "refs/tokenizer/latest.json", canonical({"asset": "tokenizer", **facts, "data_version": "0" * 64})
    )
    (problem,) = verify(store).problems
    assert "refs/tokenizer/latest.json gives its artifact the data version" in problem
    publish(store, "tokenizer", {"f": b"1"})
    for name, asset in ((tokenizer.sha256, "other"), ("0" * 64, "tokenizer")):
        store.backend.write(f"pins/{name}.json", canonical({"asset": asset, "manifest_sha256": tokenizer.sha256}))
        (problem,) = verify(store).problems
        assert f"pins/{name}.json" in problem
        store.backend.delete(f"pins/{name}.json")
    store.backend.write(f"pins/{'1' * 64}.json", canonical({"asset": "a", "manifest_sha256": "1" * 64}))
    assert "no manifest " + "1" * 64 in verify(store).problems[0]


@pytest.mark.parametrize("read", [True, False])
def test_verify_finds_every_manifest_that_lies_about_a_file(uri: str, publish: Publish, read: bool) -> None:
    store = ArtifactStore.open(uri)
    right = publish(store, "a", {"f": b"hello"})
    entry = right.manifest.files[0]
    for i in range(6):
        lie = entry.model_copy(update={"size": 10**12 + i // 3})
        store.add_manifest(right.manifest.model_copy(update={"files": (lie,), "run_id": f"lie{i}"}), latest=False)
    problems = verify(store, read=read).problems
    assert sorted(f"lie{i}" for i in range(6)) == sorted(p.split("run ")[1].split(")")[0] for p in problems)


def test_push_mends_a_damaged_manifest(uri: str, publish: Publish, tmp_path: Path) -> None:
    artifact = publish(ArtifactStore.open(uri), "a", {"f": b"1"})
    target = ArtifactStore.open(f"file://{tmp_path}/target")
    push(artifact, target)
    target.backend.write(f"manifests/{artifact.sha256}.json", artifact.manifest.to_bytes()[:50])
    push(artifact, target)
    assert verify(target).problems == () and target.latest("a").sha256 == artifact.sha256


def test_pull_keeps_names_apart(uri: str, publish: Publish, tmp_path: Path) -> None:
    store = ArtifactStore.open(uri)
    content = {"f": b"1", "manifest.json": b"mine", "records/m": b"content"}
    artifact = publish(store, "a", content, records={"m": b"record"})
    folder = pull(artifact, tmp_path / "out")
    assert Manifest.from_bytes((folder / "manifest.json").read_bytes()) == artifact.manifest
    assert {name: (folder / "files" / name).read_bytes() for name in content} == content
    assert (folder / "records/m").read_bytes() == b"record"
    assert [p.name for p in (tmp_path / "out").iterdir()] == [folder.name], "nothing is left over"


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_pull_writes_into_no_file_that_has_another_name(uri: str, publish: Publish, tmp_path: Path, kind: str) -> None:
    artifact = publish(ArtifactStore.open(uri), "a", {"f": b"1", "g": b"", ".f.part": b"part"})
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = folder_of(artifact, tmp_path / "out")
    partial = folder.with_name(f".{folder.name}.partial")
    entries: list[FileEntry] = list(artifact.manifest.files)
    wanted = [folder / "f", folder / "manifest.json", folder / ".f.part", partial / "manifest.json"]
    for path in [*wanted, *(partial / f"{i}-{e.sha256}" for i, e in enumerate(entries))]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(victim) if kind == "symlink" else path.hardlink_to(victim)
    pull(artifact, tmp_path / "out")
    assert victim.read_bytes() == b"precious"
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"} == {
        "f": b"1", "g": b"", ".f.part": b"part"}  # fmt: skip
    assert not any(p.is_symlink() for p in folder.iterdir())


@pytest.mark.parametrize("name", ["", "sub", "records"])
def test_pull_refuses_a_folder_that_is_a_link(uri: str, publish: Publish, tmp_path: Path, name: str) -> None:
    artifact = publish(ArtifactStore.open(uri), "a", {"sub/f": b"1"}, records={"m": b"r"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = folder_of(artifact, tmp_path / "out") / name
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match="is a link or a file where a folder should be"):
        pull(artifact, tmp_path / "out")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_an_ancestry_without_an_end_is_said(tmp_path: Path, publish: Publish) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    first = newest = publish(store, "a", {"f": b"1"})
    for _ in range(1500):
        parents = (newest.as_parent(),)
        newest = store.add_manifest(newest.manifest.model_copy(update={"parents": parents}), latest=False)
    assert verify(store).artifacts == 1501 and verify(store).problems == ()
    for use in (lambda: lineage(store, newest.sha256), lambda: with_ancestors(newest)):
        with pytest.raises(ArtifactError, match="100 generations away"):
            use()
    store.backend.delete(blob_key(first.manifest.files[0].digest))
    assert "is missing" in verify(store).problems[0]
