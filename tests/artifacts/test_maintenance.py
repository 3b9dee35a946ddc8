"""`aquarat store`: looking, fetching, copying, checking and clearing, as a person calls it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.store import blob_key
from aquarat_core.cli import main
from aquarat_core.maintenance import collect
from aquarat_core.maintenance.collect import DAY, clock, find_garbage, remove
from aquarat_core.maintenance.verify import verify

from .conftest import Publish

pytestmark = pytest.mark.slow

Command = Callable[..., str]


@pytest.fixture
def chain(uri: str, publish: Publish) -> list[Artifact]:
    """aqua_dataset → sft_checkpoint → rl_checkpoint, and an SFT checkpoint that a later one took the ref from."""
    store = ArtifactStore.open(uri)
    data = publish(store, "aqua_dataset", {"train.parquet": b"rows"})
    old = publish(store, "sft_checkpoint", {"model.safetensors": b"old"}, parents=[data])
    sft = publish(store, "sft_checkpoint", {"model.safetensors": b"sft"}, records={"log": b"1"}, parents=[data])
    rl = publish(store, "rl_checkpoint", {"model.safetensors": b"rl", "sub/empty": b""}, parents=[sft, data])
    return [data, old, sft, rl]


@pytest.fixture
def aquarat(uri: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `aquarat store ...` on the store; its output, or what it complains about if `fails`.

    `finds` says that the answer is bad news.
    """

    def run(*arguments: object, fails: bool = False, finds: bool = False) -> str:
        code = main(["store", *map(str, arguments), "--store", uri])
        out, err = capsys.readouterr()
        assert code == (2 if fails else 1 if finds else 0), err
        assert (out == "") is (fails and "--json" not in arguments) and (err != "") is fails
        return err if fails and "--json" not in arguments else out.rstrip("\n")

    return run


def test_ls_shows_the_latest_or_all(chain: list[Artifact], aquarat: Command) -> None:
    data, old, sft, rl = chain
    facts = json.loads(aquarat("ls", "--json"))["artifacts"]
    assert [(f["asset"], f["manifest_sha256"], f["latest"]) for f in facts] == [
        ("aqua_dataset", data.sha256, True),
        ("sft_checkpoint", sft.sha256, True),
        ("rl_checkpoint", rl.sha256, True),
    ], "in the order of the chain"
    assert [f["bytes"] for f in facts] == [4, 4, 2]
    everything = json.loads(aquarat("ls", "--all", "--json"))["artifacts"]
    assert [f["manifest_sha256"] for f in everything] == [rl.sha256, sft.sha256, old.sha256, data.sha256]
    head, first, *_ = aquarat("ls").splitlines()
    assert head.split() == ["asset", "age", "size", "manifest", "result"]
    assert first.split()[0] == "aqua_dataset" and first.split()[-1] == data.sha256[:8]
    row = aquarat("ls", "--long").splitlines()[3].split()
    assert row[0] == "rl_checkpoint" and row[3:6] == ["2", "2", rl.data_version[:12]] and row[-1] == "latest"


def test_an_empty_store_says_so(aquarat: Command, uri: str) -> None:
    if uri.startswith("file://"):
        Path(uri.removeprefix("file://")).mkdir(exist_ok=True)
    assert aquarat("ls").endswith("is empty: materialize an asset first")
    assert aquarat("verify").endswith("0 artifacts, 0 files, 0 bytes (every byte read)")


def test_lineage_as_text_graph_and_data(chain: list[Artifact], aquarat: Command) -> None:
    data, _, sft, rl = chain
    assert [line.split()[0] for line in aquarat("lineage", "rl_checkpoint").splitlines()[1:]] == [
        "rl_checkpoint",
        "├─",
        "│",
        "└─",
    ]
    graph = aquarat("lineage", "rl_checkpoint", "--dot").splitlines()
    assert graph[0] == "digraph lineage {" and graph[-1] == "}"
    edges = {line.strip() for line in graph if "->" in line}
    short = {a.asset: a.sha256[:12] for a in (data, sft, rl)}
    assert edges == {
        f'"{short["sft_checkpoint"]}" -> "{short["rl_checkpoint"]}";',
        f'"{short["aqua_dataset"]}" -> "{short["rl_checkpoint"]}";',
        f'"{short["aqua_dataset"]}" -> "{short["sft_checkpoint"]}";',
    }
    tree = json.loads(aquarat("lineage", rl.sha256, "--json"))
    assert tree["parents"][0]["parents"] == [
        {"asset": "aqua_dataset", "manifest_sha256": data.sha256, "parents": []}
        | {"data_version": data.data_version, "run_id": "run-of-aqua_dataset"}
    ]


def test_diff_names_what_differs_and_nothing_else(uri: str, publish: Publish, aquarat: Command) -> None:
    store = ArtifactStore.open(uri)
    data = publish(store, "aqua_dataset", {"train.parquet": b"rows"})
    other = publish(store, "aqua_dataset", {"train.parquet": b"more rows"})
    left = publish(store, "sft_checkpoint", {"m": b"1"}, parents=[data], config={"a": {"lr": 1, "x": [1]}, "n": 1})
    right = publish(store, "sft_checkpoint", {"m": b"2"}, parents=[other], config={"a": {"lr": 2, "x": [1]}},
                    metrics={"loss": 1.25})  # fmt: skip
    again = publish(store, "sft_checkpoint", {"m": b"2"}, parents=[other], config={"a": {"lr": 2, "x": [1]}},
                    metrics={"loss": 1.25}, run_id="r2")  # fmt: skip
    found = json.loads(aquarat("diff", left.sha256, right.sha256, "--json"))
    assert [(d["section"], d["name"]) for d in found] == [
        ("config", "a.lr"),
        ("config", "n"),
        ("data", "m"),
        ("parents", "aqua_dataset"),
        ("metrics", "loss"),
    ]
    assert [(d["left"], d["right"]) for d in found if d["section"] in ("config", "metrics")] == [
        (1, 2),
        (1, None),
        (1.5, 1.25),
    ]
    assert "metrics  loss          1.5" in aquarat("diff", left.sha256, right.sha256)
    assert aquarat("diff", right.sha256, again.sha256).endswith("differ only in their runs and times")


def test_pull_fetches_a_run_and_all_before_it(
    chain: list[Artifact], aquarat: Command, tmp_path: Path, uri: str
) -> None:
    data, _, sft, rl = chain
    folders = aquarat("pull", "rl_checkpoint", "--with-parents", "--to", tmp_path / "got").splitlines()
    assert folders == [str(tmp_path / "got" / f"{a.asset}-{a.sha256[:12]}") for a in (data, sft, rl)]
    got = {str(p.relative_to(folders[1])): p.read_bytes() for p in Path(folders[1]).rglob("*") if p.is_file()}
    assert got == {"model.safetensors": b"sft", "records/log": b"1", "manifest.json": sft.manifest.to_bytes()}
    assert (Path(folders[2]) / "sub/empty").read_bytes() == b""
    assert aquarat("pull", "aqua_dataset", "--to", tmp_path / "one") == str(
        tmp_path / "one" / f"aqua_dataset-{data.sha256[:12]}"
    )

    damaged = Path(folders[1]) / "model.safetensors"
    damaged.write_bytes(b"sfT")
    aquarat("pull", "sft_checkpoint", "--to", tmp_path / "got")
    assert damaged.read_bytes() == b"sft"
    (tmp_path / "file").touch()
    assert "Name another folder" in aquarat("pull", "sft_checkpoint", "--to", tmp_path / "file", fails=True)
    open_backend(uri).delete(blob_key(sft.manifest.files[0].digest))
    text = aquarat("pull", "sft_checkpoint", "--to", tmp_path / "none", fails=True)
    assert "file model.safetensors of sft_checkpoint" in text and "is missing" in text
    assert [p for p in (tmp_path / "none").rglob("*") if p.is_file() and "model" in p.name] == []


def test_push_gives_another_store_the_same_artifacts(chain: list[Artifact], aquarat: Command, tmp_path: Path) -> None:
    other = f"file://{tmp_path}/other"
    aquarat("push", "rl_checkpoint", "--to", other, "--with-parents")
    store = ArtifactStore.open(other)
    assert store.assets() == ["aqua_dataset", "rl_checkpoint", "sft_checkpoint"]
    assert store.latest("rl_checkpoint").manifest == chain[3].manifest
    assert verify(store).problems == ()


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("damage", ["flipped", "missing", "manifest", "ref", "parent"])
def test_verify_names_what_is_wrong(
    chain: list[Artifact], aquarat: Command, uri: str, damage: str, quick: bool
) -> None:
    data, _, sft, rl = chain
    option = ["--quick"] if quick else []
    assert aquarat("verify", *option).startswith(f"{uri} is sound: 4 artifacts, 6 files, 13 bytes")
    backend = open_backend(uri)
    key, said = blob_key(sft.manifest.files[0].digest), "file model.safetensors of sft_checkpoint (manifest "
    if damage == "flipped":
        backend.write(key, b"sfT")
        if quick and uri.startswith("file://"):
            assert "is sound" in aquarat("verify", *option), "a file system keeps no checksum"
            return
        said += f"{sft.sha256[:12]}, run run-of-sft_checkpoint) is damaged"
    elif damage == "missing":
        backend.delete(key)
        said += f"{sft.sha256[:12]}, run run-of-sft_checkpoint) is missing"
    elif damage == "manifest":
        backend.write(f"manifests/{sft.sha256}.json", b"{}")
        said = f"manifest {sft.sha256} in {uri} is damaged"
    elif damage == "ref":
        backend.delete(f"manifests/{rl.sha256}.json")
        said = f"no manifest {rl.sha256} in {uri}"
    else:
        backend.delete(f"manifests/{data.sha256}.json")
        said = f"no manifest {data.sha256}"
    text = aquarat("verify", *option, finds=True)
    assert said in text
    document = json.loads(aquarat("verify", "--json", *option, finds=True))
    assert any(said in problem for problem in document["problems"])
    assert sorted(document["problems"]) == sorted(text.splitlines()[1:])
    if damage == "flipped":
        assert "AQUARAT_PROFILE=demo dagster asset materialize --select sft_checkpoint" in text
        assert "is sound" in aquarat("verify", "aqua_dataset", *option)
        assert said in aquarat("verify", "rl_checkpoint", *option, finds=True), "an ancestor is damaged"


def test_gc_removes_what_nothing_needs_and_is_older_than_a_day(chain: list[Artifact], uri: str) -> None:
    data, old, sft, rl = chain
    store = ArtifactStore.open(uri)
    backend = store.backend
    backend.write("blobs/sha256/00/" + "0" * 64, b"of a killed writer")
    backend.write("tmp/1-left", b"left over")
    backend.write("work/sft_checkpoint/key/1-1/state", b"state")
    assert find_garbage(store).objects == (), "everything is new"

    soon = find_garbage(store, now=time.time() + 2 * DAY)
    gone = {f"manifests/{old.sha256}.json", blob_key(old.manifest.files[0].digest)}
    gone |= {"blobs/sha256/00/" + "0" * 64, "tmp/1-left"}
    assert {s.key for s in soon.objects} == gone
    assert soon.kept == 3
    assert {s.key for s in find_garbage(store, [old.sha256], now=time.time() + 2 * DAY).objects} == gone - {
        f"manifests/{old.sha256}.json", blob_key(old.manifest.files[0].digest)}  # fmt: skip
    assert "work/sft_checkpoint/key/1-1/state" in {
        s.key for s in find_garbage(store, now=time.time() + 8 * DAY).objects
    }

    assert {s.key for s in remove(store, soon)} == gone
    assert verify(store).problems == ()
    for artifact in (data, sft, rl):
        assert ArtifactStore.open(uri).get(artifact.sha256).is_complete()
    with pytest.raises(ArtifactError, match="no manifest"):
        store.get(old.sha256)
    assert find_garbage(store, now=time.time() + 2 * DAY).objects == ()


def test_gc_keeps_pins_and_the_inputs_of_running_jobs(chain: list[Artifact], uri: str, aquarat: Command) -> None:
    _, old, _, _ = chain
    store = ArtifactStore.open(uri)
    later = time.time() + 2 * DAY
    assert any(old.sha256 in s.key for s in find_garbage(store, now=later).objects)
    aquarat("pin", old.sha256)
    aquarat("pin", old.sha256)
    assert find_garbage(store, now=later).objects == ()
    listed = json.loads(aquarat("ls", "--all", "--json"))["artifacts"]
    assert [f["pinned"] for f in listed] == [False, False, True, False]
    aquarat("unpin", old.sha256)
    assert "is not pinned" in aquarat("unpin", old.sha256, fails=True)
    assert find_garbage(store, now=later).objects != ()

    job = store.job("run", "rl_checkpoint", 1)
    job.write_json("spec.json", {"inputs": {"sft_checkpoint": old.as_parent().model_dump()}})
    garbage = find_garbage(store, now=later)
    assert any(old.sha256 in s.key for s in garbage.objects), "the job's last sign of life is two days old"
    (sign,) = store.backend.stats("jobs/")
    assert find_garbage(store, now=sign.modified + DAY - 60).objects == ()


def test_gc_is_a_dry_run_unless_told_otherwise(
    chain: list[Artifact], uri: str, aquarat: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "GRACE", -DAY)
    before = list(open_backend(uri).keys(""))
    assert "could be removed (nothing was" in aquarat("gc", "--without-dagster")
    assert list(open_backend(uri).keys("")) == before
    monkeypatch.setattr(collect, "GRACE", DAY)
    assert "0 objects, 0 bytes removed; 4 artifacts are kept" in aquarat("gc", "--without-dagster", "--delete")
    assert abs(clock(ArtifactStore.open(uri)) - time.time()) < 60


def test_gc_spares_what_a_publication_found_in_place_meanwhile(
    chain: list[Artifact], uri: str, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aquarat_core.artifacts.gcs._TOUCH_AFTER", 0.0)
    store = ArtifactStore.open(uri)
    garbage = find_garbage(store, now=time.time() + 2 * DAY)
    late = publish(store, "other", {"model.safetensors": b"old"})
    key = blob_key(late.manifest.files[0].digest)
    assert key in {s.key for s in garbage.objects}, "it was garbage when the listing was made"
    assert key not in {s.key for s in remove(store, garbage)}
    assert verify(store).problems == ()


def test_gc_removes_nothing_while_a_manifest_that_stays_is_damaged(chain: list[Artifact], uri: str) -> None:
    open_backend(uri).write(f"manifests/{chain[2].sha256}.json", b"{}")
    with pytest.raises(ArtifactError, match="nothing is removed while manifests are damaged"):
        find_garbage(ArtifactStore.open(uri), now=time.time() + 2 * DAY)


def test_gc_without_a_lasting_dagster_instance_is_refused(
    chain: list[Artifact], aquarat: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert "DAGSTER_HOME is not set" in aquarat("gc", fails=True)


def test_a_manifest_of_a_newer_format_is_named(uri: str, publish: Publish, aquarat: Command) -> None:
    artifact = publish(ArtifactStore.open(uri), "x", {"a": b"1"})
    raw: dict[str, Any] = json.loads(artifact.manifest.to_bytes()) | {"format": 2, "unheard": "of"}
    data = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    open_backend(uri).create(f"manifests/{sha256}.json", data)
    assert "format 2, but this version reads format 1: update aquarat" in aquarat("show", sha256, fails=True)
    assert json.loads(aquarat("show", sha256, "--json", fails=True)).keys() == {"error"}
    assert "format 2" in aquarat("verify", finds=True)
    listed = json.loads(aquarat("ls", "--all", "--json"))
    assert [a["manifest_sha256"] for a in listed["artifacts"]] == [artifact.sha256]
    assert len(listed["problems"]) == 1 and "format 2" in listed["problems"][0]


def test_what_a_manifest_says_neither_reaches_the_terminal_raw_nor_a_shell(
    uri: str, publish: Publish, aquarat: Command
) -> None:
    fields = {"run_id": "\x1b]52;c;eA==\x07\x9b31m\u202e", "profile": "demo; touch X #"}
    artifact = publish(ArtifactStore.open(uri), "x", {"a": b"1"}, **fields)
    for command in (
        ["ls", "--long"],
        ["ls", "--long", "--all"],
        ["show", "x"],
        ["show", "x", "--json"],
        ["lineage", "x", "--long"],
        ["ls", "--json"],
    ):
        text = aquarat(*command)
        assert not set("\x1b\x07\x9b\u202e") & set(text), command
        assert "\\u001b]52;c;eA==\\u0007\\u009b31m\\u202e" in text, command
    assert json.loads(aquarat("show", "x", "--json"))["run_id"] == fields["run_id"]
    open_backend(uri).delete(blob_key(artifact.manifest.files[0].digest))
    text = aquarat("verify", finds=True)
    assert "AQUARAT_PROFILE='demo; touch X #' dagster" in text and "\x1b" not in text
