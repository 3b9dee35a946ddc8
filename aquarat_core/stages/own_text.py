"""A user's own text as shards of documents: the part of pretrain_text with `source: files`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aquarat_core.config import PretrainTextConfig
from aquarat_core.config.locations import shown
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.documents import DocumentWriter
from aquarat_core.data.hub_client import Log
from aquarat_core.data.locations import NAME_A_COLUMN, RowReader
from aquarat_core.errors import DataError
from aquarat_core.plain_text import type_of
from aquarat_core.stages.base import Scalar, StageContext

SHARD_BYTES = 250_000_000
"""UTF-8 bytes of text in a shard, about as many as in a shard of the default data set on the Hub."""
DIGEST_BYTES = 16
"""Length of a text's hash: long enough to be unique in a corpus, short enough to keep one per validation text."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the artifact."""

    file: str
    source: str
    documents: int
    text_bytes: int
    """UTF-8 bytes of all texts."""
    blank: int
    """Number of documents left out because they only contain white space."""


class _Shards:
    """Writes documents to a sequence of files; a new file begins when the last one has `limit` bytes of text."""

    def __init__(self, folder: Path, name: str, limit: float, source: str, log: Log) -> None:
        self._folder, self._name, self._limit, self._source, self._log = folder, name, limit, source, log
        self._writer: DocumentWriter | None = None
        self._documents = self._bytes = self._blank = 0
        self.done: list[Shard] = []

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, text: str, size: int) -> None:
        """Write a document whose UTF-8 has `size` bytes."""
        if self._writer is None:
            self._writer = DocumentWriter(self._folder / self._name.format(len(self.done)))
        self._writer.add(text)
        self._documents += 1
        self._bytes += size
        if self._bytes >= self._limit:
            self.close()

    def blank(self) -> None:
        """Count a document that is left out."""
        self._blank += 1

    def close(self) -> None:
        """Finish the file that is being written, if any."""
        if self._writer is None:
            return
        self._writer.close()
        shard = Shard(self._name.format(len(self.done)), self._source, self._documents, self._bytes, self._blank)
        self._log(f"{shard.file}: {shard.documents:,} documents, {shard.text_bytes:,} bytes of text")
        self.done.append(shard)
        self._writer, self._documents, self._bytes, self._blank = None, 0, 0, 0


def write_own_text(ctx: StageContext) -> tuple[list[Shard], dict[str, Scalar]]:
    """Write the shards for the config's locations; returns them, validation last, and metrics of what was read.

    Raises `DataError` for unreadable input, or if no document is left for training or for validation.
    """
    config: PretrainTextConfig = ctx.config
    sources = {"train": config.train, "validation": config.validation}
    readers = {
        split: RowReader(
            location, BadRows(shown(location), "pretrain_text", config.on_bad_row), ctx.log, advice=NAME_A_COLUMN
        )
        for split, location in sources.items()
        if location is not None
    }
    names = {"train": readers["train"].name, "validation": readers.get("validation", readers["train"]).name}
    with (
        _Shards(ctx.outdir, "train-{:05d}.parquet", SHARD_BYTES, names["train"], ctx.log) as train,
        _Shards(ctx.outdir, "validation.parquet", math.inf, names["validation"], ctx.log) as validation,
    ):
        duplicates = _divide(config, readers, train, validation)
    for split, shards in (("train", train), ("validation", validation)):
        if not shards.done:
            raise DataError(_nothing_left(split, config, readers))
    for reader in readers.values():
        if said := reader.bad.summary():
            ctx.log(said)
    read = {split: reader.described() for split, reader in readers.items()}
    (ctx.extras_dir / "sources.json").write_text(json.dumps(read, indent=2) + "\n")
    notes: dict[str, Scalar] = {
        "dropped_documents": sum(reader.bad.count for reader in readers.values()),
        "duplicate_documents": duplicates,
    }
    for split, reader in readers.items():
        notes[f"{split}_sha256"] = reader.sha256
        if reader.revision:
            notes[f"{split}_revision"] = reader.revision
    return [*train.done, *validation.done], notes


def _divide(config: PretrainTextConfig, readers: Mapping[str, RowReader], train: _Shards, validation: _Shards) -> int:
    """Write every document to training or validation; returns how many training documents are in validation too."""
    held_out: set[bytes] = set()
    duplicates = 0
    if "validation" in readers:
        for text, size, digest in _documents(config, readers["validation"], validation):
            held_out.add(digest)
            validation.add(text, size)
    share = 0.0 if "validation" in readers else config.validation_share
    for text, size, digest in _documents(config, readers["train"], train):
        if digest in held_out:
            duplicates += 1
        elif int.from_bytes(digest[:8], "big") < share * 2**64:
            validation.add(text, size)
        else:
            train.add(text, size)
    return duplicates


def _documents(config: PretrainTextConfig, reader: RowReader, shards: _Shards) -> Iterator[tuple[str, int, bytes]]:
    """The texts that are not blank, with their sizes in bytes and their hashes."""
    for row in reader.rows([config.column], config.documents):
        text = row.values[config.column]
        if text is None or (isinstance(text, str) and not text.strip()):
            shards.blank()
        elif isinstance(text, str):
            data = text.encode()
            yield text, len(data), hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
        elif isinstance(text, bytes):
            reader.bad.add_at(row.where, "the text is not valid UTF-8")
        else:
            reader.bad.add_at(row.where, f"{config.column} is {type_of(text)} instead of a text")


def _nothing_left(split: str, config: PretrainTextConfig, readers: Mapping[str, RowReader]) -> str:
    reader = readers.get(split, readers["train"])
    first = reader.bad.summary()
    why = f" ({first})" if first else ""
    if split == "validation" and "validation" not in readers:
        return (
            f"{reader.where}: no document falls into the validation_share of {config.validation_share:g}{why}. "
            "Raise pretrain_text.validation_share, or name separate documents in pretrain_text.validation"
        )
    return (
        f"{reader.where}: no document with text in it is left for {split}{why}. Check pretrain_text.{split} and column"
    )
