"""chat_datasets: conversations and documents for mid-training and SFT, questions of tasks, and `sources.json`.

There is one Parquet file for each source and split.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from aquarat_core.config import ChatDatasetsConfig, ChatSource, TaskConfig
from aquarat_core.config.locations import shown
from aquarat_core.conversation import Conversation
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.hub import HubDataset, rows, sample
from aquarat_core.data.identity import generate_identity
from aquarat_core.data.locations import NAME_A_COLUMN, RowReader
from aquarat_core.data.mixed_documents import Document, write_mixed_documents
from aquarat_core.errors import DataError
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.task_rows import read_task
from aquarat_core.tasks import arc, gsm8k, humaneval, mmlu, smoltalk
from aquarat_core.tasks.example_files import write_examples
from aquarat_core.tasks.own_chats import COLUMNS, own_conversation
from aquarat_core.tasks.registry import SOURCES_FILE
from aquarat_core.tasks.source import HubSource, text_of
from aquarat_core.tasks.task import Example

SOURCES: dict[str, HubSource] = {
    "arc": arc.SOURCE,
    "arc_challenge": arc.CHALLENGE,
    "arc_easy": arc.EASY,
    "gsm8k": gsm8k.SOURCE,
    "humaneval": humaneval.SOURCE,
    "mmlu": mmlu.SOURCE,
    "smoltalk": smoltalk.SOURCE,
}


Rows = list[Conversation] | list[Document] | list[Example[Any]]


@dataclass(frozen=True, slots=True)
class Made:
    """The result for one source: its splits, its metrics, and its entry in `sources.json`."""

    splits: Mapping[str, Rows]
    summary: dict[str, Scalar]
    described: dict[str, Any]
    documents: bool = False
    """Whether the rows are documents."""


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Write every source and every task of the config; returns rows of each split, dropped rows and commits."""
    config: ChatDatasetsConfig = ctx.config
    summary: dict[str, Scalar] = {}
    described: dict[str, dict[str, Any]] = {}
    total = len(config.sources) + len(config.tasks)
    sources = ((source.name, _source(ctx, source, config)) for source in config.sources)
    tasks = ((name, _task(ctx, task)) for name, task in config.tasks.items())
    for done, (name, made) in enumerate(chain(sources, tasks), 1):
        summary |= made.summary
        described[name] = dict(made.described)
        for split, found in made.splits.items():
            path = ctx.outdir / f"{name}.{split}.parquet"
            _write(path, found, made.documents)
            described[name] |= {f"rows_{split}": len(found), f"bytes_{split}": path.stat().st_size}
            summary[f"{name}_{split}"] = len(found)
        ctx.progress(done, total, unit="sources")
    (ctx.outdir / SOURCES_FILE).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    return summary


def _write(path: Path, rows: Rows, documents: bool) -> None:
    """Write the rows of one split, which are all conversations, all examples or all `documents`."""
    if documents:
        write_mixed_documents(path, cast("list[Document]", rows))
    elif rows and isinstance(rows[0], Example):
        write_examples(path, cast("list[Example[Any]]", rows))
    else:
        write_conversations(path, cast("list[Conversation]", rows))


def _source(ctx: StageContext, source: ChatSource, config: ChatDatasetsConfig) -> Made:
    if source.name in SOURCES:
        return _from_hub(ctx, source, config)
    return _own(ctx, source, config) if source.train else Made(_generated(source, config), {}, {"repo": None})


def _task(ctx: StageContext, task: TaskConfig) -> Made:
    found = read_task(task, ctx.log)
    return Made(found.splits, {f"{task.name}_dropped": found.dropped}, found.described)


def _generated(source: ChatSource, config: ChatDatasetsConfig) -> dict[str, list[Conversation]]:
    from aquarat_core.tasks.spelling import generate_spelling
    from aquarat_core.tasks.word_problems import generate_drills

    n_train, n_validation, n_test = (source.kept(split) or 0 for split in ("train", "validation", "test"))
    n = n_train + n_test
    if source.name == "spelling":
        calls = config.calculator_calls
        held_out = generate_spelling(n_test + n_validation, config.seed, calls, held_out=True)
        found = {"train": generate_spelling(n_train, config.seed, calls), "test": held_out[:n_test]}
        return found | ({"validation": held_out[n_test:]} if n_validation else {})
    if source.name == "identity":
        made = generate_identity(n, config.seed, config.assistant_name, config.assistant_facts)
    else:
        made = generate_drills(n, config.seed, config.max_level, config.calculator_calls)
    rows = [Conversation(f"{source.name}-{i:06d}", messages) for i, messages in enumerate(made)]
    return {"train": rows[:n_train], "test": rows[n_train:]}


def _from_hub(ctx: StageContext, source: ChatSource, config: ChatDatasetsConfig) -> Made:
    described = SOURCES[source.name]
    bad = BadRows(described.repo, "chat_datasets", config.on_bad_row)
    hub = HubDataset.open(described.repo, ctx.log)
    read = _Published(hub, described, config.seed, bad)
    n_train, n_validation, n_test = (source.kept(split) or 0 for split in ("train", "validation", "test"))
    splits: dict[str, Rows] = {}
    if n_validation and described.validation is None:
        # No validation split is published. Held-out rows are drawn first, so they do not depend on the number of
        # others.
        splits["validation"], splits["train"] = read.divided(described.train, n_validation, n_train)
    else:
        splits["train"] = read.sampled(described.train, n_train)
        if n_validation:
            splits["validation"] = read.sampled(described.validation, n_validation)
    splits["test"] = read.sampled(described.test, n_test)
    if said := bad.summary():
        ctx.log(said)
    summary: dict[str, Scalar] = {f"{source.name}_revision": hub.revision, f"{source.name}_dropped": bad.count}
    return Made(splits, summary, {"repo": described.repo, "bad_rows": [asdict(row) for row in bad.rows]})


@dataclass(frozen=True, slots=True)
class _Published:
    """Reads the rows of a data set on the Hub, with all of its subsets concatenated."""

    hub: HubDataset
    source: HubSource
    seed: int
    bad: BadRows

    def sampled(self, split: str | None, n: int) -> Rows:
        """A seeded sample of n rows of a split."""
        return self.divided(split, n, 0)[0]

    def divided(self, split: str | None, first: int, second: int) -> tuple[Rows, Rows]:
        """Two disjoint seeded samples."""
        if split is None or not first + second:
            return [], []
        table = self.hub.split(self.source.subsets, split, self.source.columns)
        chosen = sample(len(table), first + second, self.seed)
        return self._read(table, split, chosen[:first]), self._read(table, split, chosen[first:])

    def _read(self, table: pa.Table, split: str, numbers: Sequence[int]) -> Rows:
        found: list[Any] = []
        for i, row in zip(numbers, rows(table, numbers), strict=True):
            try:
                one = self.source.read(row, f"{split}-{i:06d}")
            except DataError as e:
                self.bad.add(split, i, str(e))
                continue
            if one is None:
                self.bad.add(split, i, "not a conversation in which user and assistant take turns")
            else:
                found.append(one)
        return found


def _own(ctx: StageContext, source: ChatSource, config: ChatDatasetsConfig) -> Made:
    """A user's own conversations or documents: the splits, their metrics, and a description of what was read."""
    splits: dict[str, Rows] = {"train": [], "test": []}
    summary: dict[str, Scalar] = {f"{source.name}_dropped": 0}
    described: dict[str, Any] = {"repo": None, "bad_rows": []}
    what = "document" if source.has_documents else "conversation"
    dropped = 0
    for split, location, n in (
        ("train", source.train, source.kept("train")),
        ("test", source.test, source.kept("test")),
    ):
        if location is None:
            continue
        bad = BadRows(shown(location), "chat_datasets", config.on_bad_row)
        reader = RowReader(location, bad, ctx.log, **({"advice": NAME_A_COLUMN} if source.has_documents else {}))
        splits[split] = rows = _own_rows(reader, source, split, n, config.seed)
        if said := bad.summary():
            ctx.log(said)
        if not rows and n != 0:
            raise DataError(f"{reader.where}: no {what} is left{_first(bad)}. {_remedy(source, bad)}")
        if n is not None and len(rows) < n:
            ctx.log(f"warning: {reader.where}: n_{split} of {source.name} is {n:,}, but there are only {len(rows):,}")
        dropped += bad.count
        described[split] = reader.described()
        described["bad_rows"] += [{"split": split} | asdict(row) for row in bad.rows]
        summary[f"{source.name}_{split}_sha256"] = reader.sha256
        if source.has_documents:
            size = sum(len(row.text.encode()) for row in cast("list[Document]", rows))
            described[f"text_bytes_{split}"] = summary[f"{source.name}_{split}_bytes"] = size
    return Made(splits, summary | {f"{source.name}_dropped": dropped}, described, source.has_documents)


def _own_rows(reader: RowReader, source: ChatSource, split: str, n: int | None, seed: int) -> Rows:
    """The conversations or documents (all, or a seeded sample of `n`), in the order of the rows."""
    found: list[Any] = []
    kept: list[tuple[int, int, Any]] = []
    for number, row in enumerate(reader.rows(_columns(source))):
        try:
            one = _read(row.values, source, f"{split}-{number:06d}")
        except DataError as e:
            reader.bad.add_at(row.where, str(e))
            continue
        if n is None:
            found.append(one)
            continue
        # The n smallest hashes are a sample of an unknown number of rows; the largest of them is first in the heap.
        place = hashlib.blake2b(f"{seed}\0{split}\0{number}".encode(), digest_size=8).digest()
        heapq.heappush(kept, (-int.from_bytes(place, "big"), number, one))
        if len(kept) > n:
            heapq.heappop(kept)
    return found if n is None else [one for _, _, one in sorted(kept, key=lambda entry: entry[1])]


def _columns(source: ChatSource) -> list[str] | None:
    """The columns of a user's rows that are read; None for all."""
    match source.format:
        case "auto":
            return None
        case "documents":
            return [source.column]
        case known:
            return [COLUMNS[known]]


def _read(row: Mapping[str, Any], source: ChatSource, name: str) -> Conversation | Document:
    """A user's row with the id `name`. Raises `DataError` for one that cannot be used."""
    if source.format != "documents":
        return Conversation(name, own_conversation(row, source.format))
    if isinstance(row[source.column], bytes):
        raise DataError(f"{source.column} is not valid UTF-8")
    return Document(name, text_of(row, source.column))


def _remedy(source: ChatSource, bad: BadRows) -> str:
    lacks = source.has_documents and bad.rows and bad.rows[0].reason.startswith(f"it has no {source.column} (")
    return NAME_A_COLUMN if lacks else "Check the file, or name another"


def _first(bad: BadRows) -> str:
    return f" of {bad.count:,} (the first, {bad.rows[0].row}: {bad.rows[0].reason})" if bad.rows else ""
