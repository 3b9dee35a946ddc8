"""Token shards: what is written is read back, in rows that memory packing would make too, chunk by chunk."""

from __future__ import annotations

import json
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.data import token_plans
from aquarat_core.data.packing import pack_documents, plan_documents
from aquarat_core.data.token_files import (
    INDEX,
    TokenIndex,
    TokenShard,
    read_index,
    read_lengths,
    write_index,
    write_shard,
)
from aquarat_core.data.token_plans import chunks_of
from aquarat_core.data.tokens import ValidationRows, plan, training_rows
from aquarat_core.errors import DataError
from aquarat_core.runtime.preemption import never

BOS, VOCABULARY, T = 0, 1_000, 32
CPU = torch.device("cpu")
Publish = Callable[[Path], Artifact]


def documents(n: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCABULARY, size=size).tolist() for size in rng.integers(0, 80, size=n)]


def part(documents: list[list[int]], bos: int = BOS) -> tuple[np.ndarray, np.ndarray]:
    ids = [np.array([bos, *ids], np.uint32) for ids in documents]
    return np.concatenate(ids), np.cumsum([0, *map(len, ids)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of 200 documents, one of none, and validation."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    given = [documents(200, seed=i) for i in range(3)]
    shards = [
        write_shard(folder / f"train-{i}.bin", [part(d[:150]), part(d[150:])], VOCABULARY) for i, d in enumerate(given)
    ]
    shards.append(write_shard(folder / "train-3.bin", [], VOCABULARY))
    validation = write_shard(folder / "validation.bin", [part(documents(20, seed=9))], VOCABULARY)
    write_index(folder, shards, validation, BOS, VOCABULARY)
    assert shards[0].documents == 200
    assert shards[0].tokens == sum(map(len, documents(200, 0))) + 200
    assert read_lengths(folder / "train-0.lengths").tolist() == [len(d) + 1 for d in documents(200, 0)]
    return folder


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    store = ArtifactStore.open(f"file://{tmp_path}/store")

    def published(folder: Path) -> Artifact:
        return store.publish(
            asset="pretrain_tokens", kind="dataset", directory=folder, config={}, profile="unit",
            code=CodeVersion(version="1" * 64), parents=(), metrics={}, seeds={}, run_id="run",
        )  # fmt: skip

    return published


def index_of(tokens: Artifact) -> TokenIndex:
    return read_index(tokens.path(INDEX), VOCABULARY)


def test_rows_from_shards_are_those_packed_in_memory(folder: Path, publish: Publish, tmp_path: Path) -> None:
    tokens = publish(folder)
    index = index_of(tokens)
    made = json.loads(json.dumps(plan(tokens, index, T, tmp_path)))
    packed = pack_documents([d for i in range(3) for d in documents(200, seed=i)], T, BOS, VOCABULARY)
    with training_rows(tokens, index, made) as rows:
        assert rows.chunk_rows == [len(packed.ids)] and len(rows) == len(packed.ids) > 500
        assert rows.cropped_share == pytest.approx(packed.cropped) and packed.cropped < 0.1
        rows.hold([0], [], never)
        inputs, targets = rows.tensors(np.arange(len(rows)), CPU)
    assert torch.equal(inputs, torch.from_numpy(packed.ids[:, :-1].astype(np.int64)))
    assert torch.equal(targets, torch.from_numpy(packed.ids[:, 1:].astype(np.int64)))
    held_out = ValidationRows(tokens, index, made)
    packed = pack_documents(documents(20, seed=9), T, BOS, VOCABULARY)
    assert len(held_out) == len(packed.ids) > 10
    assert held_out.tensors(np.array([3, 1]), CPU)[0].tolist() == packed.ids[[3, 1], :-1].tolist()
    assert len(list(tmp_path.rglob("*.lengths"))) == 2 + 5, "what is planned from is not kept"


def test_no_row_has_parts_of_two_chunks(
    folder: Path, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_plans, "CHUNK_TOKENS", 1_000)
    tokens = publish(folder)
    index = index_of(tokens)
    packed = [pack_documents(documents(200, seed=i), T, BOS, VOCABULARY).ids for i in range(3)]
    with training_rows(tokens, index, plan(tokens, index, T, tmp_path)) as rows:
        assert rows.chunk_rows == [*map(len, packed), 0], "the last shard is empty"
        rows.hold([0, 1, 2, 3], [], never)
        ids = torch.cat(
            [rows.tensors(np.arange(len(rows)), CPU)[0][:, :1], rows.tensors(np.arange(len(rows)), CPU)[1]], 1
        )
    assert ids.tolist() == np.concatenate(packed).tolist()


def test_shards_are_in_chunks_of_at_least_so_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_plans, "CHUNK_TOKENS", 10)
    shards = [TokenShard(str(i), "", 0, tokens) for i, tokens in enumerate((4, 4, 4, 10, 25, 9))]
    assert [[s.file for s in chunk] for chunk in chunks_of(shards)] == [["0", "1", "2"], ["3"], ["4"], ["5"]]
    assert chunks_of([]) == []


def test_the_tokens_of_another_vocabulary_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="a vocabulary of 1,000 ids, but the tokenizer has 2,048"):
        read_index(folder / INDEX, 2_048)


def test_tokens_without_lengths_are_to_be_made_again(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    del index["train"][1]["lengths"]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"by an older version, .*: materialize pretrain_tokens again"):
        read_index(folder / INDEX, VOCABULARY)


def test_too_little_text_is_an_error(folder: Path, publish: Publish, tmp_path: Path) -> None:
    tokens = publish(folder)
    with pytest.raises(DataError, match="tokens of text do not fill one row of 100001: give more text"):
        plan(tokens, index_of(tokens), 100_000, tmp_path)


def test_ids_take_two_bytes_where_they_fit(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "small.bin", [part([[65_535]])], 65_536).tokens == 2
    assert (tmp_path / "small.bin").read_bytes() == b"\x00\x00\xff\xff"
    assert (tmp_path / "small.lengths").read_bytes() == b"\x02\x00\x00\x00"
    write_shard(tmp_path / "large.bin", [part([[65_536]])], 65_537)
    assert (tmp_path / "large.bin").read_bytes() == b"\x00\x00\x00\x00\x00\x00\x01\x00"


# --- planning as it was before it read lengths ------------------------------------------------------------------------


def pieces_by_bos(ids: np.ndarray, T: int) -> Iterator[range]:
    """The documents between one BOS and the next, cut into pieces."""
    for start, end in pairwise([*np.flatnonzero(ids == BOS).tolist(), len(ids)]):
        for at in range(start, end - 1, T):
            yield range(at, min(at + T + 1, end))


def planned_by_bos(ids: np.ndarray, T: int, buffer: int) -> list[list[tuple[int, int]]]:
    """Start and length of the pieces of each row, from ids."""
    coming = pieces_by_bos(ids, T)
    waiting: list[tuple[int, int, range]] = []
    rows: list[list[tuple[int, int]]] = []
    arrived = 0

    def fill() -> bool:
        nonlocal arrived
        while len(waiting) < buffer and (piece := next(coming, None)) is not None:
            insort(waiting, (len(piece), -arrived, piece), key=lambda w: w[:2])
            arrived += 1
        return bool(waiting)

    while fill():
        row, free = list[tuple[int, int]](), T + 1
        while free and fill():
            fitting = bisect_right(waiting, (free, 1), key=lambda w: w[:2])
            piece = waiting.pop(fitting - 1 if fitting else 0)[2][:free]
            row.append((piece.start, len(piece)))
            free -= len(piece)
        if not free:
            rows.append(row)
    return rows


@pytest.mark.parametrize("buffer", [1, 7, 1_000])
@pytest.mark.parametrize("row", [5, 32, 300])
def test_rows_planned_from_lengths_are_those_planned_from_ids(row: int, buffer: int) -> None:
    ids, offsets = part(documents(3_000, seed=5))
    found = plan_documents(np.diff(offsets), row, buffer)
    expected = planned_by_bos(ids, row, buffer)
    assert [list(found.pieces(i)) for i in range(len(found))] == expected and len(expected) > 300
    assert found.tokens == sum(map(len, pieces_by_bos(ids, row)))
