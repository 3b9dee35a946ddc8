"""The Hub's cache: enough to work without the Hub, at the commit last fetched, and not believed where it is damaged."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub import constants

from aquarat_core.data import hub_cache
from tests.data.conftest import LoopbackHub, RunStage, StageRun, commit
from tests.data.test_foreign import DEADLY
from tests.data.test_stages_hub import SHARDS, add_aqua, add_shards, aqua_row

pytestmark = pytest.mark.slow

AQUA = {"source": "hub"}
OFFLINE = {"HF_HUB_OFFLINE": "1"}
REPO = {"aqua_dataset": "deepmind/aqua_rat", "pretrain_text": "karpathy/fineweb-edu-100b-shuffle"}


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of somebody who takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def _content(done: StageRun) -> dict[str, bytes]:
    assert done.error is None, done.message
    return {path.name: path.read_bytes() for path in sorted(done.out.iterdir())}


def _blob(tmp_path: Path, name: str) -> Path:
    """The cached bytes of a file, whichever commit it is of."""
    (found,) = (tmp_path / "hf/hub").glob(f"*/snapshots/*/{name}")
    return found.resolve()


def _truncate(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:200])


def _garble(blob: Path) -> None:
    """Change a value, so that the file can still be read."""
    data = bytearray(blob.read_bytes())
    data[len(data) // 3] ^= 1
    blob.write_bytes(data)


def _empty(blob: Path) -> None:
    blob.write_bytes(b"")


@pytest.mark.parametrize(
    "stage, config, add", [("aqua_dataset", AQUA, add_aqua), ("pretrain_text", SHARDS, add_shards)]
)
@pytest.mark.parametrize("why", ["offline", "refused", "hanging"])
def test_without_the_hub_a_stage_makes_the_same_of_the_cache(
    hub: LoopbackHub, run_stage: RunStage, hanging: str, stage: str, config: dict[str, Any], add: Callable, why: str
) -> None:
    add(hub, *((0, 1, 7) if stage == "pretrain_text" else ()))
    online = run_stage(stage, config, hub.endpoint)
    endpoint = {"offline": hub.endpoint, "refused": "http://127.0.0.1:9", "hanging": hanging}[why]
    environment = OFFLINE if why == "offline" else {"HF_HUB_ETAG_TIMEOUT": "1"}
    cached = run_stage(stage, config, endpoint, out="cached", environment=environment)
    assert _content(cached) == _content(online)
    assert cached.metrics == online.metrics, "the revision too"
    at = f"from the cache, at commit {commit(hub.root / REPO[stage])}"
    assert (
        at in cached.log and ("HF_HUB_OFFLINE is set" if why == "offline" else "not delivered in 2 tries") in cached.log
    )
    assert "revision" not in online.metrics or online.metrics["revision"] == commit(hub.root / REPO[stage])


def test_with_the_hub_nothing_is_fetched_twice(hub: LoopbackHub, run_stage: RunStage) -> None:
    add_aqua(hub)
    first = run_stage("aqua_dataset", AQUA, hub.endpoint)
    fetched = list(hub.downloads)
    again = run_stage("aqua_dataset", AQUA, hub.endpoint, out="again")
    assert _content(again) == _content(first) and hub.downloads == fetched


@pytest.mark.parametrize("stage, config", [("aqua_dataset", AQUA), ("pretrain_text", SHARDS)])
def test_offline_and_never_fetched(run_stage: RunStage, tmp_path: Path, stage: str, config: dict[str, Any]) -> None:
    failed = run_stage(stage, config, environment=OFFLINE)
    assert failed.error == "DataError"
    assert failed.message == (
        f"{REPO[stage]}: HF_HUB_OFFLINE is set, and this data set is not in the cache {tmp_path}/hf. To continue: "
        "run this stage once on a machine that can reach the Hub, without HF_HUB_OFFLINE, or copy the folder that "
        "HF_HOME names from a machine that ran it"
    )
    assert "trying again" not in failed.log


def test_a_hub_that_hangs_is_given_up_where_nothing_is_cached(run_stage: RunStage, hanging: str) -> None:
    failed = run_stage("aqua_dataset", AQUA, hanging, environment={"HF_HUB_ETAG_TIMEOUT": "1"})
    assert failed.error == "DataError" and f"from {hanging}: not delivered in 5 tries" in failed.message


@pytest.mark.parametrize("environment", [OFFLINE, {}])
def test_what_is_not_in_the_cache_is_named(hub: LoopbackHub, run_stage: RunStage, environment: dict[str, str]) -> None:
    add_shards(hub, 0, 1, 2, 7)
    add_aqua(hub)
    assert not run_stage("pretrain_text", SHARDS, hub.endpoint).error
    assert not run_stage("aqua_dataset", AQUA, hub.endpoint).error
    shard = run_stage("pretrain_text", SHARDS | {"train_shards": [0, 2]}, environment=environment)
    subset = run_stage("aqua_dataset", AQUA | {"subset": "tokenized"}, environment=environment)
    for failed, what in ((shard, "shard_00002.parquet"), (subset, "subset tokenized")):
        assert failed.error == "DataError" and f", {what}: " in failed.message
        assert (
            "it is not in the cache" in failed.message
            and "To continue: run this stage once on a machine that can reach the Hub" in failed.message
        )
        said = "HF_HUB_OFFLINE is set" if environment else "http://127.0.0.1:9 does not answer"
        assert said in failed.message
    split = run_stage("aqua_dataset", AQUA, environment=OFFLINE)
    assert split.error is None


TRAIN = "raw/train-00000-of-00001.parquet"


@pytest.mark.parametrize(
    "harm, name", [(_truncate, TRAIN), (_garble, TRAIN), (Path.unlink, TRAIN), (_garble, "README.md")]
)
def test_with_the_hub_damage_is_repaired(
    hub: LoopbackHub, run_stage: RunStage, tmp_path: Path, harm: Callable[[Path], None], name: str
) -> None:
    add_aqua(hub)
    whole = _content(run_stage("aqua_dataset", AQUA, hub.endpoint))
    blob = _blob(tmp_path, name)
    before = blob.read_bytes()
    if name == "README.md":  # It is only read to find the files of a split.
        for known in (tmp_path / "hf/aquarat").glob("*/*/*.json"):
            known.unlink()
    harm(blob)
    fetched = len(hub.downloads)
    again = run_stage("aqua_dataset", AQUA, hub.endpoint, out="again")
    assert _content(again) == whole and blob.read_bytes() == before
    assert hub.downloads[fetched:] == [Path(name).name] * name.endswith("parquet")
    assert ("is damaged: its" in again.log and "downloaded again" in again.log) or harm is Path.unlink


@pytest.mark.parametrize("harm, environment", [(_truncate, OFFLINE), (_garble, {}), (_empty, OFFLINE)])
def test_without_the_hub_damage_is_named(
    hub: LoopbackHub, run_stage: RunStage, tmp_path: Path, harm: Callable[[Path], None], environment: dict[str, str]
) -> None:
    add_shards(hub, 0, 1, 7)
    assert not run_stage("pretrain_text", SHARDS, hub.endpoint).error
    blob = _blob(tmp_path, "shard_00001.parquet")
    harm(blob)
    failed = run_stage("pretrain_text", SHARDS, environment=environment)
    assert (
        failed.error == "DataError" and "shard_00001.parquet: the copy in the cache is damaged: its " in failed.message
    )
    assert str(blob) in failed.message and "to download it again" in failed.message


def test_a_disk_that_spoils_what_is_fetched_anew_too(hub: LoopbackHub, run_stage: RunStage) -> None:
    add_shards(hub, 0, 1, 7)
    hub.lie = "shard_00001.parquet"
    failed = run_stage("pretrain_text", SHARDS, hub.endpoint)
    assert failed.error == "DataError"
    assert f"shard_00001.parquet, from {hub.endpoint}: downloaded again and still damaged" in failed.message
    assert hub.downloads.count("shard_00001.parquet") == 2


def test_another_commit_is_never_taken_for_the_one_last_fetched(
    hub: LoopbackHub, run_stage: RunStage, tmp_path: Path
) -> None:
    add_shards(hub, 0, 1, 7)
    base = hub.root / REPO["pretrain_text"]
    old = run_stage("pretrain_text", SHARDS, hub.endpoint)
    first = commit(base)
    new = pa.Table.from_pylist([{"text": "another text"}])
    for path in base.glob("*.parquet"):
        pa.parquet.write_table(new, path)
    second = commit(base)
    still = run_stage("pretrain_text", SHARDS, out="still", environment=OFFLINE)
    assert _content(still) == _content(old) and first in still.log and second not in still.log
    # One shard of the new commit is fetched, then the Hub goes away: the others are there at the old commit only.
    only = {"train_shards": [0], "validation_shard": 7}
    assert not run_stage("pretrain_text", SHARDS | only, hub.endpoint, out="new").error
    mixed = run_stage("pretrain_text", SHARDS, out="mixed", environment=OFFLINE)
    assert mixed.error == "DataError" and "shard_00001.parquet: HF_HUB_OFFLINE is set, and it is not in the cache" in (
        mixed.message
    )
    assert second in mixed.message and not list(mixed.out.glob("train-00001.parquet"))


@pytest.mark.parametrize("junk", [b"", b"[]", b'{"commit": "../../x"}', b'{"train": []}', b"\xff", b"[" * 100_000])
def test_notes_that_are_damaged_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, junk: bytes) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    hub_cache.note_latest("owner/name", "a" * 40)
    hub_cache.note_splits("owner/name", "a" * 40, "a/b", {"train": ["x.parquet"]})
    assert hub_cache.latest("owner/name") == "a" * 40 and hub_cache.latest("owner/other") is None
    assert hub_cache.splits("owner/name", "a" * 40, "a/b") == {"train": ["x.parquet"]}
    assert hub_cache.splits("owner/name", "b" * 40, "a/b") is None
    for path in tmp_path.rglob("*.json"):
        path.write_bytes(junk)
    assert hub_cache.latest("owner/name") is None and hub_cache.splits("owner/name", "a" * 40, "a/b") is None


def test_a_stage_asks_again_where_the_notes_are_damaged(hub: LoopbackHub, run_stage: RunStage, tmp_path: Path) -> None:
    add_aqua(hub)
    whole = _content(run_stage("aqua_dataset", AQUA, hub.endpoint))
    for path in (tmp_path / "hf/aquarat").rglob("*.json"):
        path.write_bytes(b"{")
    offline = run_stage("aqua_dataset", AQUA, out="offline", environment=OFFLINE)
    assert offline.error == "DataError" and "this data set is not in the cache" in offline.message
    assert _content(run_stage("aqua_dataset", AQUA, hub.endpoint, out="again")) == whole
    assert _content(run_stage("aqua_dataset", AQUA, out="offline", environment=OFFLINE)) == whole


def test_a_file_that_ends_the_process_that_reads_it_is_an_error_of_the_stage(
    hub: LoopbackHub, run_stage: RunStage
) -> None:
    add_shards(hub, 0, 7)
    (hub.root / REPO["pretrain_text"] / "shard_00001.parquet").write_bytes(DEADLY)
    failed = run_stage("pretrain_text", SHARDS, hub.endpoint)
    assert failed.error == "DataError"
    assert "shard_00001.parquet is not readable as Parquet: " in failed.message
    assert "The published file itself is damaged: choose another one" in failed.message


def test_rows_in_another_format_are_refused(hub: LoopbackHub, run_stage: RunStage) -> None:
    lines = "\n".join(json.dumps(aqua_row(n)) for n in range(3)).encode()
    hub.add("deepmind/aqua_rat", {"raw/train-0.jsonl": lines}, {"raw": ["train"]})
    failed = run_stage("aqua_dataset", AQUA, hub.endpoint)
    assert failed.error == "DataError" and "raw/train-0.jsonl is not a Parquet file" in failed.message
    assert "push_to_hub" in failed.message


def test_a_text_that_is_not_utf_8_is_a_bad_row_with_a_name(hub: LoopbackHub, run_stage: RunStage) -> None:
    add_aqua(hub)
    rows = pa.Table.from_pylist([aqua_row(n) for n in range(8)])
    values = pa.array([b"\xff\xfe", *(f"q{n} makes what?".encode() for n in range(7))], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 8, values.buffers())
    at = rows.schema.names.index("question")
    pa.parquet.write_table(
        rows.set_column(at, "question", texts), hub.root / "deepmind/aqua_rat/raw/train-00000-of-00001.parquet"
    )
    failed = run_stage("aqua_dataset", AQUA, hub.endpoint)
    assert failed.message.startswith(
        "deepmind/aqua_rat, split train, row 0: the question is a bytes instead of a text."
    )
    done = run_stage("aqua_dataset", AQUA | {"on_bad_row": "drop"}, hub.endpoint)
    assert done.metrics["train_dropped_bad_row"] == 1 and done.metrics["rows_train"] == 7
