"""chat_datasets: conversations for mid-training and SFT, one Parquet file per source and split, and `sources.json`."""

from __future__ import annotations

import json

from aquarat_core.config import ChatDatasetsConfig, ChatSource
from aquarat_core.data.hub import HubDataset, sample
from aquarat_core.data.identity import generate_identity
from aquarat_core.data.mixture import Conversation, write_conversations
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
            splits, notes = _from_hub(ctx, source, config.seed)
            described[source.name] = {"repo": SOURCES[source.name].repo}
        else:
            splits, notes = _generated(source, config), {}
            described[source.name] = {"repo": None}
        summary |= notes
        for split, rows in splits.items():
            path = ctx.outdir / f"{source.name}.{split}.parquet"
            write_conversations(path, rows)
            described[source.name] |= {f"rows_{split}": len(rows), f"bytes_{split}": path.stat().st_size}
            summary[f"{source.name}_{split}"] = len(rows)
    (ctx.outdir / "sources.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    ctx.progress(len(config.sources), len(config.sources), unit="sources")
    return summary


def _generated(source: ChatSource, config: ChatDatasetsConfig) -> dict[str, list[Conversation]]:
    from aquarat_core.data.synthetic import generate_drills

    n = source.n_train + source.n_test
    if source.name == "identity":
        made = generate_identity(n, config.seed, config.assistant_name, config.assistant_facts)
    else:
        made = generate_drills(n, config.seed, config.max_level)
    rows = [Conversation(f"{source.name}-{i:06d}", messages) for i, messages in enumerate(made)]
    return {"train": rows[: source.n_train], "test": rows[source.n_train :]}


def _from_hub(
    ctx: StageContext, source: ChatSource, seed: int
) -> tuple[dict[str, list[Conversation]], dict[str, Scalar]]:
    described = SOURCES[source.name]
    hub = HubDataset.open(described.repo, ctx.log)
    splits, unusable = {}, 0
    for split, published, n in (
        ("train", described.train, source.n_train),
        ("test", described.test, source.n_test),
    ):
        rows = _rows(hub, described, published, n, seed) if published and n else []
        splits[split] = [Conversation(name, messages) for name, messages in rows if messages]
        unusable += len(rows) - len(splits[split])
    return splits, {f"{source.name}_revision": hub.revision, f"{source.name}_dropped": unusable}


def _rows(hub: HubDataset, source: HubSource, split: str, n: int, seed: int) -> list[tuple[str, list | None]]:
    """A seeded sample of n rows over all subsets, each as (name, messages or None)."""
    table = hub.split(source.subsets, split, source.columns)
    chosen = sample(len(table), n, seed)
    rows = zip(chosen, table.select(chosen), strict=True)
    return [(f"{split}-{i:06d}", source.conversation(row)) for i, row in rows]
