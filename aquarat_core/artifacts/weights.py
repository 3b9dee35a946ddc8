"""Weights as safetensors in shards of at most 1 GiB, with the index file that the Hub's own loaders read.

A small model is one file, such as `model.safetensors`. A large one is `model-00001-of-00003.safetensors` and so on, and
`model.safetensors.index.json` names each tensor's shard. Shards are transferred in parallel, and if only some tensors
of a checkpoint change, only their shards are sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from aquarat_core.errors import WeightsError

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 1 << 30
WRITE_BYTES = 1 << 16
"""Bytes written by one call."""
MAX_INDEX_BYTES = 16 << 20
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


class Slice(Protocol):
    """A tensor that has not been read."""

    def get_shape(self) -> list[int]: ...

    def get_dtype(self) -> str: ...


class Tensors(Protocol):
    """An open file of tensors."""

    def keys(self) -> Iterable[str]: ...

    def get_tensor(self, name: str) -> torch.Tensor: ...

    def get_slice(self, name: str) -> Slice: ...


def save_sharded(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    stem: str = "model",
    max_bytes: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes the tensors, in order, into as many shards as they need; the same tensors give the same bytes.

    `max_bytes` defaults to `SHARD_BYTES`. A larger tensor gets a shard of its own. `metadata` is put into the header of
    every shard.
    """
    shards = _split(tensors, SHARD_BYTES if max_bytes is None else max_bytes)
    paths = [directory / _name(stem, n, len(shards)) for n in range(len(shards))]
    for path, names in zip(paths, shards, strict=True):
        named = {name: tensors[name].detach().contiguous().cpu() for name in names}
        _write(path, named, None if metadata is None else dict(metadata))
    if len(shards) > 1:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        where = {name: path.name for path, names in zip(paths, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        paths.append(_index(directory, stem))
        paths[-1].write_text(json.dumps(index, indent=1) + "\n")
    return paths


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    """Writes one file: float32 tensors here, others by safetensors, whose bytes are the same.

    safetensors writes each tensor in one call. For that Linux takes memory for its page cache in large blocks, which
    many virtual machines must first get back from their host: it took 3 to 5 times as long as small writes.
    """
    import torch
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]  # a bare PathLike in it

    if not tensors or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        save_file(tensors, path, metadata)
        return
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        _write_all(file, memoryview(len(text).to_bytes(8, "little") + text))
        for _, tensor in sorted(tensors.items()):
            _write_all(file, tensor.reshape(-1).view(torch.uint8).numpy().data)


def _write_all(file: FileIO, data: memoryview) -> None:
    """Writes `data` in pieces that end at multiples of `WRITE_BYTES` in the file, so that no page is written twice."""
    done, until = 0, WRITE_BYTES - file.tell() % WRITE_BYTES
    while done < len(data):
        done += file.write(data[done:until])
        until = done + WRITE_BYTES if done == until else until


def load_sharded(directory: Path, stem: str = "model") -> dict[str, torch.Tensor]:
    """All tensors that `save_sharded` wrote there, on the CPU. Raises `WeightsError` if they do not match the index."""
    found: dict[str, torch.Tensor] = {}
    for shard in open_shards(directory, stem):
        found |= {name: shard.get_tensor(name) for name in sorted(shard.keys())}
    return found


def open_shards(directory: Path, stem: str = "model") -> Iterator[Tensors]:
    """The shards that `save_sharded` wrote there, open one at a time.

    Raises `WeightsError` for one that is damaged or does not match the index.
    """
    from safetensors import SafetensorError

    for path, names in _shards(directory, stem):
        try:
            with open_tensors(path) as shard:
                there = set(shard.keys())
                if names is not None and there != names:
                    differing = ", ".join(sorted(there ^ names)[:3])
                    raise WeightsError(f"{path} does not hold the tensors that the index names ({differing} differ)")
                yield shard
        except SafetensorError as e:
            raise WeightsError(f"{path} is damaged or not a safetensors file: {e}") from None


def weight_files(directory: Path, stem: str = "model") -> list[Path]:
    """The files that `open_shards` reads: the one file, or the index and the shards that it names.

    Raises `WeightsError` for a damaged index.
    """
    index = _index(directory, stem)
    return [*[index][: index.is_file()], *(path for path, _ in _shards(directory, stem))]


def open_tensors(path: Path) -> AbstractContextManager[Tensors]:
    """The open file, which reads its tensors on demand. The return value of safetensors' own function has no type."""
    from safetensors import safe_open

    return cast("AbstractContextManager[Tensors]", safe_open(path, framework="pt"))


def _shards(directory: Path, stem: str) -> Iterator[tuple[Path, set[str] | None]]:
    index = _index(directory, stem)
    if not index.is_file():
        yield directory / f"{stem}.safetensors", None
        return
    where = _weight_map(index)
    for shard in sorted(set(where.values())):
        if "/" in shard or not _SHARD.search(shard):
            raise WeightsError(f"{index} names {shard!r}, which is not the name of a shard")
        yield directory / shard, {name for name, file in where.items() if file == shard}


def _weight_map(index: Path) -> dict[str, str]:
    """The name of each tensor's shard. Raises `WeightsError` for a damaged index."""
    try:
        where = json.loads(index.read_bytes()[:MAX_INDEX_BYTES])["weight_map"]
        if isinstance(where, dict):
            names = cast("dict[str, object]", where)
            if all(isinstance(file, str) for file in names.values()):
                return cast("dict[str, str]", names)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise WeightsError(f"{index} does not say which shard holds which tensor: it is damaged")


def _split(tensors: Mapping[str, torch.Tensor], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        n = tensor.numel() * tensor.element_size()
        if shards[-1] and size + n > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n
    return shards


def _index(directory: Path, stem: str) -> Path:
    return directory / f"{stem}.safetensors.index.json"


def _name(stem: str, number: int, of: int) -> str:
    return f"{stem}.safetensors" if of == 1 else f"{stem}-{number + 1:05d}-of-{of:05d}.safetensors"
