"""aqua_dataset: AQuA-RAT from the Hub, cleaned, or generated questions of the same shape.

Writes `train.parquet`, `validation.parquet`, `test.parquet`, where questions are set aside `holdout.parquet`, and
`cleaning.json`, which counts drops and changes by rule. Where rationales are normalized, the record `rationales.md`
shows people examples.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from aquarat_core.config import AquaDatasetConfig
from aquarat_core.conversation import without_calls
from aquarat_core.data.hub import HubDataset, rows, sample
from aquarat_core.errors import DataError
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks.aqua.cleaning import TRAIN, Cleaned, clean
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.aqua.holdout import HOLDOUT, set_aside
from aquarat_core.tasks.aqua.question import LETTERS, Question
from aquarat_core.tasks.aqua.rationale_report import NormalizedRationales, normalize_rationales

SPLITS = ("train", "validation", "test")
COLUMNS = ("question", "options", "rationale", "correct")
EXAMPLES_FILE = "rationales.md"

MAX_DRAWS = 8
"""Up to this many times the requested number of questions are generated to find enough distinct ones."""


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Write the splits; returns rows, drops by rule and the share of each letter."""
    config: AquaDatasetConfig = ctx.config
    splits, report, summary = _from_hub(ctx, config) if config.source == "hub" else _generated(ctx, config)
    for name in splits:
        write_questions(ctx.outdir / f"{name}.parquet", splits[name])
        summary |= _shares(name, splits[name])
        summary[f"bytes_{name}"] = (ctx.outdir / f"{name}.parquet").stat().st_size
    (ctx.outdir / "cleaning.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    return summary


def _from_hub(
    ctx: StageContext, config: AquaDatasetConfig
) -> tuple[dict[str, list[Question]], dict[str, object], dict[str, Scalar]]:
    hub = HubDataset.open(config.repo, ctx.log)
    raw: dict[str, list[dict[str, Any]]] = {}
    for i, split in enumerate(SPLITS):
        ctx.progress(i, len(SPLITS), unit="splits")
        raw[split] = list(rows(hub.split((config.subset,), split, COLUMNS)))
    cleaned = clean(raw, config.repo, config.on_bad_row, lambda done, total: ctx.progress(done, total, unit="rows"))
    extra: dict[str, object] = {}
    summary: dict[str, Scalar] = {}
    if config.n_holdout:
        parts = set_aside(cleaned.splits[TRAIN], config.n_holdout)
        cleaned.splits |= {TRAIN: parts.train, HOLDOUT: parts.holdout}
        summary |= {"near_groups": parts.groups, "near_groups_largest": parts.largest_group}
        extra[HOLDOUT] = {"rows": len(parts.holdout), "groups": parts.groups, "largest_group": parts.largest_group}
    if config.rationales == "normalized":
        normalized = normalize_rationales(cleaned.splits, config.unreached == "drop", config.calculator_calls)
        cleaned.splits = normalized.splits
        summary |= _normalized(ctx, normalized)
        extra["rationales"] = {"counts": normalized.counts, "unreached": normalized.unreached}
    if config.max_rationale_chars is not None:
        _drop_long(ctx, cleaned, config.max_rationale_chars)
    kept = _kept(cleaned, config)
    if cleaned.bad_rows:
        first, n = cleaned.bad_rows[0], sum(c.get("dropped_bad_row", 0) for c in cleaned.counts.values())
        ctx.log(f"{n:,} bad rows left out, named in cleaning.json; the first is {first.row}: {first.reason}")
    report: dict[str, object] = {
        "source": config.repo,
        "counts": cleaned.counts,
        "near_held_out": [asdict(x) for x in cleaned.leaks],
        "bad_rows": [asdict(x) for x in cleaned.bad_rows],
        "letters_left_share": cleaned.letters_left(),
        **extra,
    }
    dropped = {
        f"{split}_{rule}": n
        for split, counts in cleaned.counts.items()
        for rule, n in counts.items()
        if n and (rule.startswith("dropped_") or rule in ("option_prefix_missing", "options_keep_order"))
    }
    return kept, report, {"revision": hub.revision, **dropped, **summary}


def _drop_long(ctx: StageContext, cleaned: Cleaned, limit: int) -> None:
    """Removes from training, and counts, the questions whose rationale has more than `limit` characters."""
    questions = cleaned.splits[TRAIN]
    lengths = [len(without_calls(q.rationale, q.rationale_parts)) for q in questions]
    kept = [q for q, length in zip(questions, lengths, strict=True) if length <= limit]
    if questions and not kept:
        shortest = min(lengths)
        raise DataError(
            f"no row is left of split train: the shortest of {len(questions):,} rationales has {shortest:,} "
            f"characters, more than aqua_dataset.max_rationale_chars {limit:,}"
        )
    cleaned.splits[TRAIN] = kept
    n = len(questions) - len(kept)
    cleaned.counts[TRAIN]["dropped_long_rationale"] = n
    cleaned.counts[TRAIN]["kept"] -= n
    ctx.log(
        f"{n:,} of {len(questions):,} training rows are left out: their rationale is longer than {limit:,} characters"
    )


def _kept(cleaned: Cleaned, config: AquaDatasetConfig) -> dict[str, list[Question]]:
    """As many rows of each split as the config asks for. Raises `DataError` if a split has none."""
    kept: dict[str, list[Question]] = {}
    for split in SPLITS:
        found = cleaned.splits[split]
        if not found:
            raise DataError(f"{config.repo}, split {split}: no row is left after cleaning: {cleaned.counts[split]}")
        kept[split] = [found[i] for i in sample(len(found), getattr(config, f"n_{split}"), config.seed)]
    return kept | ({HOLDOUT: cleaned.splits[HOLDOUT]} if config.n_holdout else {})


def _normalized(ctx: StageContext, found: NormalizedRationales) -> dict[str, Scalar]:
    """Writes the page of examples; returns the metrics of the training rationales."""
    (ctx.extras_dir / EXAMPLES_FILE).write_text(found.page(), encoding="utf-8")
    counts, share = found.counts[TRAIN], found.changed_share(TRAIN)
    ctx.log(
        f"{share:.1%} of {counts['rows']:,} training rationales are changed; {counts['unreached']:,} do not "
        f"reach the right option ({counts.get('dropped_unreached', 0):,} of them are left out); examples are in "
        f"{EXAMPLES_FILE}"
    )
    named: dict[str, Scalar] = {f"rationales_{name}": n for name, n in counts.items()}
    if "calls" in counts:
        calling = found.calls_share(TRAIN)
        ctx.log(f"{calling:.1%} of the training rationales call the calculator, {counts['calls']:,} times in all")
        named["rationales_with_calls_share"] = round(calling, 4)
    return {**named, "rationales_changed_share": round(share, 4)}


def _generated(
    ctx: StageContext, config: AquaDatasetConfig
) -> tuple[dict[str, list[Question]], dict[str, object], dict[str, Scalar]]:
    """Generated questions with distinct texts.

    Small families run out of distinct questions early, so the held-out questions are shuffled before they are split.
    """
    train = _distinct(ctx, config, config.n_train, held_out=False)
    held_out = _distinct(ctx, config, config.n_validation + config.n_test, held_out=True)
    held_out.sort(key=lambda q: hashlib.sha256(f"{config.seed}/{q.id}".encode()).digest())
    splits = {"train": train, "validation": held_out[: config.n_validation], "test": held_out[config.n_validation :]}
    counts = {split: {"kept": len(rows)} for split, rows in splits.items()}
    return splits, {"source": "synthetic", "counts": counts, "near_held_out": []}, {}


def _distinct(ctx: StageContext, config: AquaDatasetConfig, n: int, held_out: bool) -> list[Question]:
    """The generator's first n distinct questions. Raises `DataError` if there are not that many."""
    from aquarat_core.tasks.aqua.synthetic import generate_questions

    asked = n
    found: dict[str, Question] = {}
    while asked <= MAX_DRAWS * n:
        drawn = generate_questions(
            asked, config.seed, config.families, config.max_level, held_out, config.calculator_calls
        )
        found.clear()
        for q in drawn:
            found.setdefault(q.question, q)
        ctx.progress(min(len(found), n), n, unit="questions")
        if len(found) >= n:
            return list(found.values())[:n]
        asked *= 2
    fields = "n_validation + n_test" if held_out else "n_train"
    raise DataError(
        f"{asked // 2:,} generated questions contain {len(found):,} distinct ones, but {n:,} are needed: lower "
        f"aqua_dataset.{fields}, raise max_level, or allow more families"
    )


def _shares(name: str, rows: Iterable[Question]) -> dict[str, Scalar]:
    rows = list(rows)
    letters = Counter(q.correct for q in rows)
    shares = {f"{name}_share_{x}": round(letters[x] / len(rows), 4) for x in LETTERS}
    return {f"rows_{name}": len(rows), **shares}
