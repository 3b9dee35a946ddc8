"""Weights in shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aquarat_core.artifacts.weights import load_sharded, save_sharded


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {f"layer.{n}": torch.randn(10, 10, generator=generator) for n in range(5)}
    return made | {"half": torch.randn(3, generator=generator).bfloat16(), "scalar": torch.tensor(2.0)}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype and torch.equal(tensor, right[name])


def test_few_weights_are_one_file(tmp_path: Path) -> None:
    assert save_sharded(tmp_path, tensors()) == [tmp_path / "model.safetensors"]
    assert_same(load_sharded(tmp_path), tensors())


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
@pytest.mark.parametrize("shapes", [[(3, 5)], [(1,), (2, 40_000), (0, 7), (), (5,)]])
def test_the_bytes_are_those_of_safetensors(
    tmp_path: Path, shapes: list[tuple[int, ...]], metadata: dict[str, str] | None
) -> None:
    made = {f"b{i % 3}.\u00e9 {i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    (path,) = save_sharded(tmp_path, made, metadata=metadata)
    save_file(made, tmp_path / "theirs", metadata)
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_many_weights_are_shards_within_the_limit_and_an_index(tmp_path: Path) -> None:
    paths = save_sharded(tmp_path, tensors(), max_bytes=900)
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert [p.name for p in paths] == [*shards, "model.safetensors.index.json"]
    index = json.loads(paths[-1].read_text())
    assert index["metadata"]["total_size"] == 5 * 400 + 6 + 4
    assert [index["weight_map"][f"layer.{n}"] for n in range(5)] == [shards[0]] * 2 + [shards[1]] * 2 + [shards[2]]
    assert_same(load_sharded(tmp_path), tensors())
    (tmp_path / "again").mkdir()
    for path in save_sharded(tmp_path / "again", tensors(), max_bytes=900):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_a_tensor_larger_than_a_shard_has_one_to_itself(tmp_path: Path) -> None:
    paths = save_sharded(tmp_path, tensors(), stem="rank-00000", max_bytes=300)
    assert [p.name for p in paths[:-1]] == [f"rank-00000-0000{n}-of-00006.safetensors" for n in range(1, 7)]
    where = json.loads(paths[-1].read_text())["weight_map"]
    assert [where[f"layer.{n}"] for n in range(5)] == [p.name for p in paths[:5]]
    assert where["half"] == where["scalar"] == paths[5].name
    assert_same(load_sharded(tmp_path, "rank-00000"), tensors())


def test_what_does_not_belong_is_named(tmp_path: Path) -> None:
    paths = save_sharded(tmp_path, tensors(), max_bytes=900)
    paths[0].write_bytes(paths[1].read_bytes())
    with pytest.raises(ValueError, match="does not hold the tensors that the index names"):
        load_sharded(tmp_path)
    index = json.loads(paths[-1].read_text())
    index["weight_map"]["layer.0"] = "../outside-00001-of-00002.safetensors"
    paths[-1].write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names '\.\./outside"):
        load_sharded(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, b"\x10\0\0\0\0\0\0\0{}", b"not tensors at all, but text"])
def test_a_damaged_file_of_tensors_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(damage)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or not a safetensors file"):
        load_sharded(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="does not say which shard holds which tensor"):
        load_sharded(tmp_path)
