"""Parts of a file that are encoded beside each other come in the order of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aquarat_core.data import parquet
from aquarat_core.data.documents import write_documents
from aquarat_core.stages.token_shard import encoded
from aquarat_core.text.tokenizer import Tokenizer


@pytest.mark.parametrize("threads", [1, 3])
def test_parts_come_in_order_whatever_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(parquet, "PART_BYTES", 1_000)
    texts = [f"document {i} " * (i % 40) for i in range(300)]
    write_documents(tmp_path / "d.parquet", texts)
    tokenizer = Tokenizer(r"\w+|\s+", [(100, 111), (256, 99)])
    parts = list(encoded(tmp_path / "d.parquet", tokenizer, threads))
    assert len(parts) > 20
    ids, offsets = tokenizer.encode_batch_to_numpy(texts, prepend="<|bos|>")
    assert np.array_equal(np.concatenate([part for part, _ in parts]), ids)
    assert np.array_equal(np.concatenate([np.diff(starts) for _, starts in parts]), np.diff(offsets))


def test_what_goes_wrong_while_encoding_is_told(tmp_path: Path) -> None:
    write_documents(tmp_path / "d.parquet", ["text"])
    with pytest.raises(ValueError, match="not a special token"):
        list(encoded(tmp_path / "d.parquet", Tokenizer(r"\w+|\s+", [], []), 2))
