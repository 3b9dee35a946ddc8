"""Token shards: what is written is read back, in rows that memory packing would make too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aquarat_core.data.packing import pack_documents
from aquarat_core.data.token_files import write_index, write_shard
from aquarat_core.data.tokens import open_rows
from aquarat_core.errors import DataError

BOS, VOCABULARY, T = 0, 1_000, 32


def documents(n: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCABULARY, size=size).tolist() for size in rng.integers(0, 80, size=n)]


def part(documents: list[list[int]], bos: int = BOS) -> tuple[np.ndarray, np.ndarray]:
    ids = [np.array([bos, *ids], np.uint32) for ids in documents]
    return np.concatenate(ids), np.cumsum([0, *map(len, ids)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    given = [documents(200, seed=i) for i in range(3)]
    shards = [
        write_shard(tmp_path / f"train-{i}.bin", [part(d[:150]), part(d[150:])], VOCABULARY)
        for i, d in enumerate(given)
    ]
    validation = write_shard(tmp_path / "validation.bin", [part(documents(20, seed=9))], VOCABULARY)
    write_index(tmp_path, shards, validation, BOS, VOCABULARY)
    assert shards[0].documents == 200
    assert shards[0].tokens == sum(map(len, documents(200, 0))) + 200
    return tmp_path


def test_rows_from_shards_are_those_packed_in_memory(folder: Path) -> None:
    rows = open_rows(folder, "train", T, VOCABULARY)
    given = [d for i in range(3) for d in documents(200, seed=i)]
    packed = pack_documents(given, T, BOS, VOCABULARY)
    assert len(rows) == len(packed.ids) > 500 and rows.plan.cropped == packed.cropped < 0.1
    inputs, targets = rows.tensors(np.arange(len(rows)), torch.device("cpu"))
    assert torch.equal(inputs, torch.from_numpy(packed.ids[:, :-1].astype(np.int64)))
    assert torch.equal(targets, torch.from_numpy(packed.ids[:, 1:].astype(np.int64)))
    assert len(open_rows(folder, "validation", T, VOCABULARY)) > 10


def test_the_tokens_of_another_vocabulary_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="a vocabulary of 1,000 ids, but the tokenizer has 2,048"):
        open_rows(folder, "train", T, 2_048)


def test_ids_take_two_bytes_where_they_fit(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "small", [part([[65_535]])], 65_536).tokens == 2
    assert (tmp_path / "small").read_bytes() == b"\x00\x00\xff\xff"
    write_shard(tmp_path / "large", [part([[65_536]])], 65_537)
    assert (tmp_path / "large").read_bytes() == b"\x00\x00\x00\x00\x00\x00\x01\x00"
