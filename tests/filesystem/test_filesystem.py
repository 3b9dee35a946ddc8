"""`aquarat://` by fsspec's own functions: what is there, what is read, what is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.store import blob_key
from aquarat_core.errors import UserError
from aquarat_core.filesystem import FolderError, NoSuchPathError, ReadOnlyError, UnreadableError
from tests.artifacts.conftest import Publish

FILES = {"train.parquet": b"0123456789", "shards/a.bin": b"a" * 300_000, "shards/deep/b.bin": b"", "empty": b""}


@pytest.fixture
def store(uri: str, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """An empty store of each kind, which `AQUARAT_STORE` names."""
    monkeypatch.setenv("AQUARAT_STORE", uri)
    return ArtifactStore.open(uri)


@pytest.fixture
def art(store: ArtifactStore, publish: Publish) -> Artifact:
    """The asset `aqua_dataset`, and beside it `wide/rl_checkpoint` of an experiment."""
    store.make_latest(publish(store, "rl_checkpoint", {"w": b"w"}, latest=False), "wide/rl_checkpoint")
    return publish(store, "aqua_dataset", FILES, records={"metrics.jsonl": b"{}\n", "pages/a.html": b"<p>"})


@pytest.fixture
def fs(art: Artifact) -> Any:
    return fsspec.filesystem("aquarat")


def files_of(name: str) -> list[str]:
    records = [".records/metrics.jsonl", ".records/pages/a.html"]
    return sorted(f"{name}/{path}" for path in [*FILES, *records])


# --- looking ----------------------------------------------------------------------------------------------------------


def test_the_root_lists_assets_and_experiments(fs: Any) -> None:
    for root in ("", "aquarat://", "/"):
        assert fs.ls(root, detail=False) == ["aqua_dataset", "wide"]
    assert fs.ls("aquarat://wide/", detail=False) == ["wide/rl_checkpoint"]
    assert fs.info("wide") == {"name": "wide", "size": 0, "type": "directory"}
    assert {info["type"] for info in fs.ls("")} == {"directory"}
    assert "wide/rl_checkpoint/w" in fs.find("") and "aqua_dataset/train.parquet" in fs.find("")


def test_an_artifact_lists_its_files_and_records(fs: Any, art: Artifact) -> None:
    for name in ("aqua_dataset", art.sha256, art.sha256[:8]):
        top = [f"{name}/{inner}" for inner in (".records", "empty", "shards", "train.parquet")]
        assert fs.ls(f"aquarat://{name}/", detail=False) == top
        assert fs.find(name) == files_of(name)
        assert fs.ls(f"{name}/shards/deep", detail=False) == [f"{name}/shards/deep/b.bin"]
        assert fs.ls(f"{name}/empty", detail=False) == [f"{name}/empty"], "a file lists itself"
    walked = list(fs.walk("aqua_dataset/shards"))
    assert walked == [("aqua_dataset/shards", ["deep"], ["a.bin"]), ("aqua_dataset/shards/deep", [], ["b.bin"])]
    assert fs.glob("aquarat://aqua_dataset/**/*.bin") == ["aqua_dataset/shards/a.bin", "aqua_dataset/shards/deep/b.bin"]
    assert fs.glob("aquarat://*/*.parquet") == ["aqua_dataset/train.parquet"]
    assert fs.du("aqua_dataset/shards") == 300_000


def test_the_info_of_a_file_says_which_bytes_it_has_and_where_from(fs: Any, art: Artifact) -> None:
    info = fs.info("aquarat://aqua_dataset/train.parquet")
    entry = next(entry for entry in art.manifest.files if entry.path == "train.parquet")
    assert info == {
        "name": "aqua_dataset/train.parquet",
        "size": 10,
        "type": "file",
        "sha256": entry.sha256,
        "ETag": entry.sha256,
        "manifest_sha256": art.sha256,
        "created": art.manifest.created,
    }
    assert info in fs.ls("aqua_dataset")
    assert fs.ukey("aqua_dataset/train.parquet") == entry.sha256
    assert fs.checksum("aqua_dataset/train.parquet") == int(entry.sha256, 16)
    assert fs.info("aqua_dataset/empty")["size"] == 0
    assert fs.info("aqua_dataset")["manifest_sha256"] == art.sha256
    assert abs((datetime.now(UTC) - fs.modified("aqua_dataset/empty")).total_seconds()) < 86_400
    with pytest.raises(FolderError, match=r"aquarat://wide has no creation time"):
        fs.modified("wide")


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "nothing/train.parquet",
        "aqua_dataset/nothing",
        "aqua_dataset/train.parquet/x",
        "aqua_dataset/Train.parquet",
        "AQUA_DATASET/train.parquet",
        "aqua_dataset/../aqua_dataset/train.parquet",
        "../manifests",
        "wide/nothing/w",
        "wide/../../x",
        "rl_checkpoint/w",
        "0" * 64,
    ],
)
def test_what_is_not_there_is_missing_in_every_way(fs: Any, path: str) -> None:
    assert not fs.exists(path) and not fs.isfile(path) and not fs.isdir(path)
    assert fs.find(path) == [] and list(fs.walk(path)) == []
    for look in (fs.info, fs.ls, fs.open, fs.cat_file, fs.modified):
        with pytest.raises(FileNotFoundError) as error:
            look(f"aquarat://{path}")
        assert isinstance(error.value, UserError)
        assert " has no " in str(error.value) and "; it has " in str(error.value)


def test_a_missing_file_is_told_with_what_is_there(fs: Any, art: Artifact) -> None:
    with pytest.raises(NoSuchPathError) as error:
        fs.open("aqua_dataset/nothing")
    listed = ".records/metrics.jsonl, .records/pages/a.html, empty, shards/a.bin, shards/deep/b.bin, train.parquet"
    assert str(error.value) == f"aqua_dataset ({art.uri}) has no file or folder 'nothing'; it has {listed}"
    with pytest.raises(NoSuchPathError, match="has no asset or manifest 'nothing'; it has aqua_dataset, wide/rl"):
        fs.open("nothing/a")


def test_a_store_without_anything_is_empty(store: ArtifactStore) -> None:
    fs = fsspec.filesystem("aquarat")
    assert fs.ls("") == [] and fs.exists("") and fs.isdir("")
    with pytest.raises(FileNotFoundError, match="it is empty: materialize an asset first"):
        fs.open("aqua_dataset/train.parquet")


# --- reading ----------------------------------------------------------------------------------------------------------


def test_files_read_as_they_were_published(fs: Any, art: Artifact) -> None:
    for name in ("aqua_dataset", art.sha256, art.sha256[:8].upper()):
        assert {path: fs.cat_file(f"{name}/{path}") for path in FILES} == FILES
    assert fs.cat("wide/rl_checkpoint/w") == b"w"
    assert fs.cat("aqua_dataset/.records/metrics.jsonl") == b"{}\n"
    with fsspec.open("aquarat://aqua_dataset/.records/metrics.jsonl", "r") as lines:
        assert list(lines) == ["{}\n"]
    with fs.open("aqua_dataset/train.parquet") as file:
        assert file.seekable() and not file.writable() and file.size == 10
        file.seek(-3, os.SEEK_END)
        assert (file.read(), file.tell()) == (b"789", 10)
        assert file.details["manifest_sha256"] == art.sha256


@pytest.mark.parametrize(
    "span", [(0, 4), (3, None), (None, 3), (-4, None), (-4, -1), (8, 99), (99, None), (6, 2), (5, 4)]
)
def test_ranges_are_slices(fs: Any, span: tuple[int | None, int | None]) -> None:
    assert fs.cat_file("aqua_dataset/train.parquet", *span) == b"0123456789"[slice(*span)]


def test_several_ranges_at_once(fs: Any) -> None:
    a, b, gone = "aquarat://aqua_dataset/train.parquet", "aqua_dataset/shards/a.bin", "aqua_dataset/gone"
    found = fs.cat_ranges([a, b, gone, a], [0, 299_999, 0, 8], [2, None, 5, 10])
    assert found[:2] + found[3:] == [b"01", b"a", b"89"]
    assert isinstance(found[2], FileNotFoundError)
    assert fs.cat_ranges([a, b], 1, 3) == [b"12", b"aa"]
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([gone], 0, 1, on_error="raise")


def test_a_folder_is_copied_with_all_that_is_in_it(fs: Any, tmp_path: Path) -> None:
    fs.get("aquarat://aqua_dataset/shards/", str(tmp_path / "got"), recursive=True)
    got = {
        path.relative_to(tmp_path / "got").as_posix(): path.read_bytes() for path in (tmp_path / "got").rglob("*.bin")
    }
    assert got == {"a.bin": FILES["shards/a.bin"], "deep/b.bin": b""}


def test_open_local_gives_the_verified_copy(fs: Any, art: Artifact) -> None:
    path = fsspec.open_local("aquarat://aqua_dataset/shards/a.bin")
    assert path == str(art.path("shards/a.bin")) and Path(path).read_bytes() == FILES["shards/a.bin"]
    assert fsspec.open_local("aquarat://aqua_dataset/*.parquet") == [str(art.path("train.parquet"))]


def test_a_file_is_fetched_and_verified_once(fs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from aquarat_core.artifacts import cache

    hashed: list[Path] = []
    monkeypatch.setattr(cache, "digest_file", lambda path: hashed.append(path))
    fetched: list[object] = []
    fetch = ArtifactStore.fetch
    monkeypatch.setattr(ArtifactStore, "fetch", lambda self, *a: (fetched.append(a[1]), fetch(self, *a))[1])
    for _ in range(3):
        assert fsspec.filesystem("aquarat").cat_file("aqua_dataset/shards/a.bin", 0, 1) == b"a"
    assert (len(fetched), hashed) == (1, []), "its bytes are hashed while they are fetched, and then known"


def test_a_folder_cannot_be_opened(fs: Any) -> None:
    for path in ("", "wide", "aqua_dataset", "aqua_dataset/shards/"):
        with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
            fs.open(path)


# --- what changes -----------------------------------------------------------------------------------------------------


def test_a_new_latest_is_seen_and_an_open_file_stays(store: ArtifactStore, art: Artifact, publish: Publish) -> None:
    fs = fsspec.filesystem("aquarat")
    with fs.open("aqua_dataset/train.parquet") as old:
        assert old.read(2) == b"01"
        new = publish(store, "aqua_dataset", {"train.parquet": b"new", "added": b""})
        again = pickle.loads(pickle.dumps(old))
        assert (old.read(), again.read()) == (b"23456789", b"23456789"), "also in the process that it is sent to"
    assert fs.cat("aqua_dataset/train.parquet") == b"new" and fs.exists("aqua_dataset/added")
    assert fs.info("aqua_dataset")["manifest_sha256"] == new.sha256
    assert fs.cat(f"{art.sha256[:12]}/train.parquet") == FILES["train.parquet"]


def test_a_pinned_url_keeps_its_meaning(store: ArtifactStore, art: Artifact, publish: Publish) -> None:
    fs = fsspec.filesystem("aquarat")
    pinned = fs.pinned("aquarat://aqua_dataset/train.parquet")
    assert pinned == f"aquarat://{art.sha256}/train.parquet" == fs.pinned(pinned)
    assert fs.pinned("aqua_dataset") == f"aquarat://{art.sha256}"
    publish(store, "aqua_dataset", {"train.parquet": b"new"})
    assert fs.cat(pinned) == FILES["train.parquet"]
    with pytest.raises(NoSuchPathError):
        fs.pinned("aqua_dataset/shards")
    with pytest.raises(FolderError, match="aquarat://wide lists artifacts"):
        fs.pinned("wide")


def test_two_manifests_with_one_beginning_need_more_digits(store: ArtifactStore, fs: Any) -> None:
    backend = open_backend(store.uri)
    for last in "01":
        backend.create(f"manifests/{'abcdef' + last * 58}.json", b"{}")
    with pytest.raises(UnreadableError, match=r"2 manifests in .* start with abcdef: give more digits"):
        fs.ls("abcdef")


@pytest.mark.parametrize("damage", [b"0123x56789", b"0123", None])
def test_damaged_bytes_are_never_given_out(store: ArtifactStore, fs: Any, art: Artifact, damage: bytes | None) -> None:
    key = blob_key(next(entry for entry in art.manifest.files if entry.path == "train.parquet").digest)
    backend = open_backend(store.uri)
    backend.delete(key) if damage is None else backend.write(key, damage)
    for read in (fs.open, lambda path: fs.cat_file(path, 0, 1), fsspec.open_local):
        with pytest.raises(UnreadableError) as error:
            read("aquarat://aqua_dataset/train.parquet")
        assert isinstance(error.value, OSError) and not isinstance(error.value, FileNotFoundError)
        assert "file train.parquet of aqua_dataset" in str(error.value)
        assert "dagster asset materialize --select aqua_dataset" in str(error.value)
    assert fs.cat("aqua_dataset/shards/a.bin") == FILES["shards/a.bin"]


def test_a_damaged_copy_in_the_cache_is_fetched_again(fs: Any, art: Artifact) -> None:
    copy = Path(fsspec.open_local("aquarat://aqua_dataset/train.parquet"))
    copy.chmod(0o644)
    copy.write_bytes(b"xxxxxxxxxx")
    assert fs.cat("aqua_dataset/train.parquet") == FILES["train.parquet"]


def test_a_damaged_manifest_is_not_taken_for_a_missing_path(store: ArtifactStore, fs: Any, art: Artifact) -> None:
    open_backend(store.uri).write(f"manifests/{art.sha256}.json", b"{}")
    for look in (fs.exists, fs.isdir, fs.isfile, fs.info, fs.ls, fs.open, fs.find, fs.glob, lambda p: list(fs.walk(p))):
        with pytest.raises(UnreadableError, match=f"manifest {art.sha256} .* is damaged"):
            look("aqua_dataset/train.parquet")
    with pytest.raises(UnreadableError):
        fs.find("")
    assert fs.cat("wide/rl_checkpoint/w") == b"w"


def test_a_time_that_is_none_is_told_and_stops_nothing_else(store: ArtifactStore, fs: Any, art: Artifact) -> None:
    store.add_manifest(art.manifest.model_copy(update={"created": "yesterday"}), latest=True)
    with pytest.raises(UnreadableError, match="says that it was created at 'yesterday', which is not a valid time"):
        fs.modified("aqua_dataset/train.parquet")
    assert fs.cat("aqua_dataset/train.parquet") == FILES["train.parquet"]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_nothing_can_be_written(fs: Any, store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    before = list(open_backend(store.uri).keys(""))
    path, other = "aquarat://aqua_dataset/train.parquet", "aquarat://aqua_dataset/other"
    attempts = [
        *(lambda mode=mode: fs.open(path, mode) for mode in ("wb", "w", "ab", "xb", "r+b")),
        lambda: fs.pipe(other, b"x"),
        lambda: fs.pipe_file(other, b"x"),
        lambda: fs.write_text(other, "x"),
        lambda: fs.write_bytes(other, b"x"),
        lambda: fs.put(str(tmp_path / "f"), other),
        lambda: fs.put_file(str(tmp_path / "f"), other),
        lambda: fs.upload(str(tmp_path / "f"), other),
        lambda: fs.touch(other),
        lambda: fs.mkdir(other),
        lambda: fs.makedirs(other, exist_ok=True),
        lambda: fs.rmdir("aqua_dataset"),
        lambda: fs.rm(path),
        lambda: fs.rm("aqua_dataset", recursive=True),
        lambda: fs.rm_file(path),
        lambda: fs.delete(path),
        lambda: fs.cp(path, other),
        lambda: fs.cp_file(path, other),
        lambda: fs.mv(path, other),
        lambda: fs.rename(path, other),
    ]
    for attempt in attempts:
        with pytest.raises(ReadOnlyError, match=r"^aquarat:// is read-only: an artifact is made by materializing"):
            attempt()
    assert list(open_backend(store.uri).keys("")) == before


# --- which store ------------------------------------------------------------------------------------------------------


def test_the_store_is_what_is_named_at_that_time(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (ArtifactStore.open(f"file://{tmp_path}/{name}") for name in ("one", "two"))
    publish(one, "data", {"f": b"one"})
    publish(two, "data", {"f": b"two"})
    for store, said in ((one, b"one"), (two, b"two"), (one, b"one")):
        monkeypatch.setenv("AQUARAT_STORE", store.uri)
        with fsspec.open("aquarat://data/f") as file:
            assert file.read() == said
    with fsspec.open("aquarat://data/f", store=two.uri) as file:
        assert file.read() == b"two"
    first, second = fsspec.filesystem("aquarat"), fsspec.filesystem("aquarat", store=two.uri)
    assert first != second and first == fsspec.filesystem("aquarat", store=one.uri)
    written = first.to_json(), second.to_json()
    monkeypatch.setenv("AQUARAT_STORE", "file:///nothing/here")
    read = [type(first).from_json(text).cat("data/f") for text in written]
    assert read == [b"one", b"two"]
    assert len({first, second, fsspec.filesystem("aquarat", store=one.uri)}) == 2 and first.fsid != second.fsid


def test_a_store_that_cannot_be_used_is_an_error_and_not_an_absence() -> None:
    fs = fsspec.filesystem("aquarat", store="ftp://host")
    for look in (fs.exists, fs.ls, fs.find, fs.open):
        with pytest.raises(UnreadableError, match="has the unknown scheme 'ftp'"):
            look("data/f")


def test_a_bucket_that_is_not_there_is_named(gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_url)
    fs = fsspec.filesystem("aquarat", store="gs://no-such-bucket/store")
    for look in (fs.exists, fs.glob, fs.open):
        with pytest.raises(UnreadableError, match="no-such-bucket"):
            look("data/f")


def test_another_process_reads_from_the_same_store(shared_uri: str, publish: Publish, root: Path) -> None:
    publish(ArtifactStore.open(shared_uri), "data", {"f": b"bytes"})
    sent = pickle.dumps(fsspec.filesystem("aquarat", store=shared_uri))
    assert b"credential" not in sent
    script = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).cat('data/f'))"
    environment = {**os.environ, "PYTHONPATH": str(root), "AQUARAT_STORE": "file:///nothing/here"}
    command = [sys.executable, "-c", script, sent.hex()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("b'bytes'\n", "")


def test_a_forked_process_opens_the_store_anew(shared_uri: str, publish: Publish) -> None:
    publish(ArtifactStore.open(shared_uri), "data", {"f": b"bytes", "g": b"more"})
    fs = fsspec.filesystem("aquarat", store=shared_uri)
    assert fs.cat("data/f") == b"bytes"
    mine = fs._open_store()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if fs._open_store() is not mine and fs.cat("data/g") == b"more" else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fs._open_store() is mine and fs.cat("data/g") == b"more"


def test_importing_it_loads_no_heavy_library(root: Path) -> None:
    script = "import sys, fsspec; fsspec.get_filesystem_class('aquarat'); print(*sys.modules)"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout.split()
    assert "aquarat_core.filesystem" in loaded
    assert not {"torch", "pandas", "pyarrow", "datasets", "dagster"} & set(loaded)
