"""`aquarat://` in the libraries that people read data with, each by its own functions."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.store import blob_key
from aquarat_core.filesystem import NoSuchPathError, ReadOnlyError, UnreadableError
from tests.artifacts.conftest import Publish

URL = "aquarat://aqua_dataset/train.parquet"


def parquet(*rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": list(rows), "text": [f"row {row}" for row in rows]}), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def store(shared_uri: str, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """Stores that several processes see, with `aqua_dataset`."""
    monkeypatch.setenv("AQUARAT_STORE", shared_uri)
    store = ArtifactStore.open(shared_uri)
    files = {"train.parquet": parquet(0, 1, 2, 3, 4), "shards/a.parquet": parquet(5), "shards/b.parquet": parquet(6)}
    publish(store, "aqua_dataset", files, records={"metrics.jsonl": b"{}\n"})
    return store


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`datasets` refuses all URLs while it is told that the Hub is offline."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return tmp_path / "datasets"


def test_pandas(store: ArtifactStore, publish: Publish) -> None:
    import pandas as pd

    assert pd.read_parquet(URL)["id"].tolist() == [0, 1, 2, 3, 4]
    assert pd.read_parquet("aquarat://aqua_dataset/shards")["id"].tolist() == [5, 6]
    assert pd.read_parquet(URL, columns=["text"], storage_options={"store": store.uri})["text"][4] == "row 4"
    assert pd.read_json("aquarat://aqua_dataset/.records/metrics.jsonl", lines=True).shape == (1, 0)
    publish(store, "aqua_dataset", {"train.parquet": parquet(7)})
    assert pd.read_parquet(URL)["id"].tolist() == [7], "the new latest artifact"
    with pytest.raises(FileNotFoundError):
        pd.read_parquet("aquarat://aqua_dataset/gone.parquet")
    with pytest.raises(NoSuchPathError, match=r"has no file or folder 'gone\.csv'; it has "):
        pd.read_csv("aquarat://aqua_dataset/gone.csv")
    with pytest.raises(ReadOnlyError):
        pd.DataFrame({"a": [1]}).to_parquet("aquarat://aqua_dataset/new.parquet")


def test_pyarrow(store: ArtifactStore) -> None:
    fs = fsspec.filesystem("aquarat")
    assert pq.read_table("aqua_dataset/train.parquet", filesystem=fs)["id"].to_pylist() == [0, 1, 2, 3, 4]
    whole = pyarrow.dataset.dataset("aqua_dataset", format="parquet", filesystem=fs)
    assert sorted(whole.to_table()["id"].to_pylist()) == [0, 1, 2, 3, 4, 5, 6], "files only: records are hidden"
    groups = pq.ParquetFile("aqua_dataset/train.parquet", filesystem=fs)
    assert groups.read_row_group(1)["id"].to_pylist() == [2, 3]
    with pytest.raises(FileNotFoundError):
        pq.read_table("aqua_dataset/gone.parquet", filesystem=fs)


def test_damage_stays_a_sentence_in_pyarrow_and_pandas(store: ArtifactStore) -> None:
    import pandas as pd

    entry = next(e for e in store.resolve("aqua_dataset").manifest.files if e.path == "train.parquet")
    open_backend(store.uri).write(blob_key(entry.digest), parquet(0, 1, 2, 3, 9))
    with pytest.raises(UnreadableError, match=r"file train\.parquet of aqua_dataset .* is damaged"):
        pq.read_table("aqua_dataset/train.parquet", filesystem=fsspec.filesystem("aquarat"))
    with pytest.raises(UnreadableError, match=r"file train\.parquet of aqua_dataset .* is damaged"):
        pd.read_parquet(URL)


@pytest.mark.slow
def test_datasets(store: ArtifactStore, publish: Publish, hub_cache: Path) -> None:
    import datasets

    def load(files: str, **options: object) -> list[int]:
        cache = str(hub_cache)
        return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache, **options)["id"][:]

    assert load(URL) == [0, 1, 2, 3, 4]
    assert load("aquarat://aqua_dataset/shards/*.parquet", num_proc=2) == [5, 6]
    assert load(URL, storage_options={"store": store.uri}) == [0, 1, 2, 3, 4]
    publish(store, "aqua_dataset", {"train.parquet": parquet(7, 8)})
    assert load(fsspec.filesystem("aquarat").pinned(URL)) == [7, 8], "`datasets` asks for no URL twice"
    assert load(URL, download_mode="force_redownload") == [7, 8]


@pytest.mark.slow
def test_datasets_as_a_stream(store: ArtifactStore, hub_cache: Path) -> None:
    import datasets
    from torch.utils.data import DataLoader

    files = [URL, "aquarat://aqua_dataset/shards/a.parquet"]
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4, 5]
    loader = DataLoader(rows, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert sorted(int(row["id"]) for row in loader) == [0, 1, 2, 3, 4, 5]


def test_torch_and_safetensors(store: ArtifactStore, publish: Publish) -> None:
    import torch
    from safetensors import safe_open

    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    publish(store, "rl_checkpoint", {"model.safetensors": save(weights), "raw.bin": weights["w"].tobytes()})
    path = fsspec.open_local("aquarat://rl_checkpoint/model.safetensors")
    assert np.array_equal(load_file(path)["w"], weights["w"])
    with safe_open(path, "pt") as tensors:
        assert torch.equal(tensors.get_slice("w")[1], torch.tensor([3.0, 4.0, 5.0]))
    mapped = torch.from_file(fsspec.open_local("aquarat://rl_checkpoint/raw.bin"), shared=False, size=6)
    assert torch.equal(mapped, torch.arange(6.0))


def test_numpy_reads_from_the_open_file(store: ArtifactStore, publish: Publish) -> None:
    publish(store, "numbers", {"n.bin": np.arange(4, dtype="<i8").tobytes()})
    with fsspec.open("aquarat://numbers/n.bin") as file:
        file.seek(8)
        assert np.fromfile(file, "<i8").tolist() == [1, 2, 3]
