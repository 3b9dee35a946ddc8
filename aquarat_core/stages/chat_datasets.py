"""chat_datasets: conversations for mid-training and SFT, one Parquet file per source and split, and `sources.json`."""

from __future__ import annotations

import json
from dataclasses import asdict

from aquarat_core.config import ChatDatasetsConfig, ChatSource
from aquarat_core.conversation import Conversation
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.hub import HubDataset, rows, sample
from aquarat_core.data.identity import generate_identity
from aquarat_core.errors import DataError
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks import arc, gsm8k, humaneval, mmlu, smoltalk
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
    described = {}
    for done, source in enumerate(config.sources):
        ctx.progress(done, len(config.sources), unit="sources")
        if source.name in SOURCES:
            repo = SOURCES[source.name].repo
            bad = BadRows(repo, "chat_datasets", config.on_bad_row)
            splits, notes = _from_hub(ctx, source, config.seed, bad)
            described[source.name] = {"repo": repo, "bad_rows": [asdict(row) for row in bad.rows]}
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

    n = source.n_train + source.n_test
    if source.name == "spelling":
        return {
            "train": generate_spelling(source.n_train, config.seed, config.calculator_calls),
            "test": generate_spelling(source.n_test, config.seed, config.calculator_calls, held_out=True),
        }
    if source.name == "identity":
        made = generate_identity(n, config.seed, config.assistant_name, config.assistant_facts)
    else:
        made = generate_drills(n, config.seed, config.max_level, config.calculator_calls)
    rows = [Conversation(f"{source.name}-{i:06d}", messages) for i, messages in enumerate(made)]
    return {"train": rows[: source.n_train], "test": rows[source.n_train :]}


def _from_hub(
    ctx: StageContext, source: ChatSource, seed: int, bad: BadRows
) -> tuple[dict[str, list[Conversation]], dict[str, Scalar]]:
    described = SOURCES[source.name]
    hub = HubDataset.open(described.repo, ctx.log)
    splits: dict[str, list[Conversation]] = {}
    for split, published, n in (
        ("train", described.train, source.n_train),
        ("test", described.test, source.n_test),
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
