"""chat_datasets: conversations for mid-training and SFT, one Parquet file per source and split, and `sources.json`."""

from __future__ import annotations

import hashlib
import heapq
import json
from dataclasses import asdict
from typing import Any

from aquarat_core.config import ChatDatasetsConfig, ChatSource
from aquarat_core.config.locations import shown
from aquarat_core.conversation import Conversation
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.hub import HubDataset, rows, sample
from aquarat_core.data.identity import generate_identity
from aquarat_core.data.locations import RowReader
from aquarat_core.errors import DataError
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks import arc, gsm8k, humaneval, mmlu, smoltalk
from aquarat_core.tasks.own_chats import COLUMNS, own_conversation
from aquarat_core.tasks.source import HubSource

SOURCES: dict[str, HubSource] = {
    "arc": arc.SOURCE,
    "gsm8k": gsm8k.SOURCE,
    "humaneval": humaneval.SOURCE,
    "mmlu": mmlu.SOURCE,
    "smoltalk": smoltalk.SOURCE,
}


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Write every source of the config; returns rows of each split, dropped rows and commits."""
    config: ChatDatasetsConfig = ctx.config
    summary: dict[str, Scalar] = {}
    described: dict[str, dict[str, Any]] = {}
    for done, source in enumerate(config.sources):
        ctx.progress(done, len(config.sources), unit="sources")
        if source.name in SOURCES:
            repo = SOURCES[source.name].repo
            bad = BadRows(repo, "chat_datasets", config.on_bad_row)
            splits, notes = _from_hub(ctx, source, config.seed, bad)
            described[source.name] = {"repo": repo, "bad_rows": [asdict(row) for row in bad.rows]}
        elif source.train:
            splits, notes, described[source.name] = _own(ctx, source, config)
        else:
            splits, notes = _generated(source, config), {}
            described[source.name] = {"repo": None}
        summary |= notes
        for split, found in splits.items():
            path = ctx.outdir / f"{source.name}.{split}.parquet"
            write_conversations(path, found)
            described[source.name] |= {f"rows_{split}": len(found), f"bytes_{split}": path.stat().st_size}
            summary[f"{source.name}_{split}"] = len(found)
    (ctx.outdir / "sources.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    ctx.progress(len(config.sources), len(config.sources), unit="sources")
    return summary


def _generated(source: ChatSource, config: ChatDatasetsConfig) -> dict[str, list[Conversation]]:
    from aquarat_core.tasks.spelling import generate_spelling
    from aquarat_core.tasks.word_problems import generate_drills

    n_train, n_test = source.kept("train") or 0, source.kept("test") or 0
    n = n_train + n_test
    if source.name == "spelling":
        return {
            "train": generate_spelling(n_train, config.seed, config.calculator_calls),
            "test": generate_spelling(n_test, config.seed, config.calculator_calls, held_out=True),
        }
    if source.name == "identity":
        made = generate_identity(n, config.seed, config.assistant_name, config.assistant_facts)
    else:
        made = generate_drills(n, config.seed, config.max_level, config.calculator_calls)
    rows = [Conversation(f"{source.name}-{i:06d}", messages) for i, messages in enumerate(made)]
    return {"train": rows[:n_train], "test": rows[n_train:]}


def _from_hub(
    ctx: StageContext, source: ChatSource, seed: int, bad: BadRows
) -> tuple[dict[str, list[Conversation]], dict[str, Scalar]]:
    described = SOURCES[source.name]
    hub = HubDataset.open(described.repo, ctx.log)
    splits: dict[str, list[Conversation]] = {}
    for split, published, n in (
        ("train", described.train, source.kept("train")),
        ("test", described.test, source.kept("test")),
    ):
        splits[split] = _rows(hub, described, published, n, seed, bad) if published and n else []
    if said := bad.summary():
        ctx.log(said)
    return splits, {f"{source.name}_revision": hub.revision, f"{source.name}_dropped": bad.count}


def _rows(hub: HubDataset, source: HubSource, split: str, n: int, seed: int, bad: BadRows) -> list[Conversation]:
    """The conversations of a seeded sample of n rows over all subsets."""
    table = hub.split(source.subsets, split, source.columns)
    chosen = sample(len(table), n, seed)
    found: list[Conversation] = []
    for i, row in zip(chosen, rows(table, chosen), strict=True):
        try:
            messages = source.conversation(row)
        except DataError as e:
            bad.add(split, i, str(e))
            continue
        if messages:
            found.append(Conversation(f"{split}-{i:06d}", messages))
        else:
            bad.add(split, i, "no key among the choices, or no conversation in which the two take turns")
    return found


def _own(
    ctx: StageContext, source: ChatSource, config: ChatDatasetsConfig
) -> tuple[dict[str, list[Conversation]], dict[str, Scalar], dict[str, Any]]:
    """A user's conversations: the splits, their metrics, and what was read."""
    splits: dict[str, list[Conversation]] = {"train": [], "test": []}
    summary: dict[str, Scalar] = {f"{source.name}_dropped": 0}
    described: dict[str, Any] = {"repo": None, "bad_rows": []}
    dropped = 0
    for split, location, n in (
        ("train", source.train, source.kept("train")),
        ("test", source.test, source.kept("test")),
    ):
        if location is None:
            continue
        bad = BadRows(shown(location), "chat_datasets", config.on_bad_row)
        reader = RowReader(location, bad, ctx.log)
        splits[split] = _own_rows(reader, source, split, n, config.seed)
        if said := bad.summary():
            ctx.log(said)
        if not splits[split] and n != 0:
            raise DataError(f"{reader.where}: no conversation is left{_first(bad)}. Check the file, or name another")
        dropped += bad.count
        described[split] = reader.described()
        described["bad_rows"] += [{"split": split} | asdict(row) for row in bad.rows]
        summary[f"{source.name}_{split}_sha256"] = reader.sha256
    return splits, summary | {f"{source.name}_dropped": dropped}, described


def _own_rows(reader: RowReader, source: ChatSource, split: str, n: int | None, seed: int) -> list[Conversation]:
    """The conversations, or a seeded sample of `n` of them, in the order of the rows."""
    columns = None if source.format == "auto" else [COLUMNS[source.format]]
    found: list[Conversation] = []
    kept: list[tuple[int, int, Conversation]] = []
    for number, row in enumerate(reader.rows(columns)):
        try:
            messages = own_conversation(row.values, source.format)
        except DataError as e:
            reader.bad.add_at(row.where, str(e))
            continue
        conversation = Conversation(f"{split}-{number:06d}", messages)
        if n is None:
            found.append(conversation)
            continue
        # The n smallest hashes are a sample of rows whose number is not known before; a heap has the largest first.
        place = hashlib.blake2b(f"{seed}\0{split}\0{number}".encode(), digest_size=8).digest()
        heapq.heappush(kept, (-int.from_bytes(place, "big"), number, conversation))
        if len(kept) > n:
            heapq.heappop(kept)
    return found if n is None else [c for _, _, c in sorted(kept, key=lambda entry: entry[1])]


def _first(bad: BadRows) -> str:
    return f" of {bad.count:,} (the first, {bad.rows[0].row}: {bad.rows[0].reason})" if bad.rows else ""
