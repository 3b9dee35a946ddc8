"""Parts of nanochat's recipe that ours lacks, one at a time and together, by the held-out loss of short trainings.

Our profiles for GPUs take nanochat's rates, but start from another initialization, do not decay what AdamW trains, and
have Muon without its latest two steps. Each variant changes one of these. A seed gives all variants the same rows in
the same order and the same random numbers to start from, so that differences are compared seed by seed. Differences
smaller than those between seeds decide nothing, and a few hundred steps do not decide about the end of a long run.

    ./run bench recipe                                   # a few minutes on two free cores
    ./run bench recipe --text 'shards/*.parquet' --steps 1000 --seeds 3 --depth 8

Options: `--text` Parquet files with a column `text` (default: Python's own sources), `--steps`, `--seeds`, `--depth`,
`--only` variants, separated by commas, and `--device`.
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from aquarat_core.config import ModelConfig, OptimConfig, TokenizerConfig
from aquarat_core.data.packing import pack_documents
from aquarat_core.data.rows import EpochShuffle, PackedRows
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim import muon
from aquarat_core.optim.groups import ParamGroup, parameter_groups
from aquarat_core.runtime.distributed import World
from aquarat_core.text.tokenizer import train_tokenizer
from aquarat_core.training import optimizer as training
from aquarat_core.training.loss import accumulate_loss
from benchmarks.corpus import sources
from benchmarks.harness import Against, BenchError, Result, report

BATCH_ROWS, T, VOCABULARY = 8, 256, 1024
POINTS = 6
"""Held-out measurements of a curve."""
HELD_OUT_ROWS = 64
CHARS = 6_000_000
OPTIM = OptimConfig(
    embedding_lr=0.3, unembedding_lr=0.008, lr_scale=0.25, weight_decay=0.28, warmup=0.016, warmdown=0.65,
    final_lr=0.05, grad_clip=None, momentum_first=0.85, momentum=0.95, momentum_steps=50, embedding_betas=(0.8, 0.995),
    head_betas=(0.8, 0.96),
)  # fmt: skip
"""That of the profiles for GPUs, with a momentum and a scale for few small steps."""
ADAMW_DECAY = {"head": 0.01, "embedding": 0.001, "value_embeddings": 0.01, "residual_lambdas": 0.05}


@dataclass(frozen=True, slots=True)
class Variant:
    """A change of the recipe: of the fresh weights, and of functions while it trains."""

    start: Callable[[Transformer], None] = field(default=lambda model: None)
    patches: tuple[tuple[Any, str, Any], ...] = ()

    def __add__(self, other: Variant) -> Variant:
        def start(model: Transformer) -> None:
            self.start(model)
            other.start(model)

        return Variant(start, (*self.patches, *other.patches))


@torch.no_grad()
def _small_embeddings(model: Transformer) -> None:
    model.embedding.weight.mul_(0.8)


@torch.no_grad()
def _small_up(model: Transformer) -> None:
    for block in model.blocks:
        block.mlp.up.weight.mul_(0.4)


@torch.no_grad()
def _open_gates(model: Transformer) -> None:
    generator = torch.Generator().manual_seed(5)
    for block in model.blocks:
        if block.attention.value_gate is not None:
            block.attention.value_gate.weight.uniform_(0.0, 0.02, generator=generator)


def _decayed_groups(model: Transformer, config: OptimConfig) -> list[ParamGroup]:
    return [replace(g, weight_decay=ADAMW_DECAY.get(g.name, g.weight_decay)) for g in parameter_groups(model, config)]


orthogonalize, normalize, fresh_moments = muon.orthogonalize, muon.normuon_normalize, training._fresh_moments


def _with(before: bool, after: bool) -> Callable[[Tensor], Tensor]:
    """Orthogonalization with rows of equal length `before` (MuonEq) and the exact norm `after` (Muon+)."""

    def steps(x: Tensor) -> Tensor:
        if before:
            x = x / x.norm(dim=-1, keepdim=True).clamp_min(muon.EPS)
        x = orthogonalize(x)
        if after:
            x = x * (min(x.shape[-2:]) ** 0.5 / x.norm(dim=(-2, -1), keepdim=True).clamp_min(muon.EPS))
        return x

    return steps


def _moments_along_longer(shard: Any) -> dict[str, Tensor]:
    moments = fresh_moments(shard)
    first = moments["first"]
    if shard.group.muon and first.size(0) < first.size(1):
        moments["second"] = torch.zeros_like(first[:1])
    return moments


def _normalize_along_longer(update: Tensor, exp_avg_sq: Tensor, beta2: float) -> Tensor:
    if exp_avg_sq.size(0) == 1 and update.size(0) > 1:
        return normalize(update.mT, exp_avg_sq.mT, beta2).mT
    return normalize(update, exp_avg_sq, beta2)


PARTS = {
    "embedding std 0.8": Variant(_small_embeddings),
    "up x 0.4": Variant(_small_up),
    "gates above 0": Variant(_open_gates),
    "AdamW decay": Variant(patches=((training, "parameter_groups", _decayed_groups),)),
    "MuonEq": Variant(patches=((muon, "orthogonalize", _with(before=True, after=False)),)),
    "Muon+": Variant(patches=((muon, "orthogonalize", _with(before=False, after=True)),)),
    "NorMuon by columns": Variant(
        patches=(
            (training, "_fresh_moments", _moments_along_longer),
            (muon, "normuon_normalize", _normalize_along_longer),
        )
    ),
}
BOTH = Variant(patches=((muon, "orthogonalize", _with(before=True, after=True)),))


def variants() -> dict[str, Variant]:
    """Ours, ours with each part, and ours with all of them."""
    everything = Variant()
    for name, part in PARTS.items():
        everything = everything + (BOTH if name == "MuonEq" else part if name != "Muon+" else Variant())
    return {"ours": Variant(), **PARTS, "all of these": everything}


def main(options: Sequence[str]) -> int:
    """Trains every variant with every seed, and prints curves, differences and a line of JSON."""
    arguments = _arguments(options)
    asked = arguments.only.split(",") if arguments.only else list(variants())
    if unknown := set(asked) - set(variants()):
        print(f"bench recipe: there is no variant {', '.join(sorted(unknown))}; there are {', '.join(variants())}",
              file=sys.stderr)  # fmt: skip
        return 2
    torch.set_num_threads(1)  # products this small gain nothing from two, and beside other work they wait
    train, held_out = _rows(arguments.text)
    curves: dict[str, list[list[float]]] = {}
    for seed in range(arguments.seeds):
        for name in dict.fromkeys(["ours", *asked]):
            curve = list(_trained(variants()[name], train, held_out, arguments, seed))
            curves.setdefault(name, []).append(curve)
            shown = " ".join(f"{loss:.4f}" for loss in curve)
            print(f"seed {seed}  {name:<20} {shown}", flush=True)
    print(json.dumps(report("recipe", _results(curves)) | {"curves": curves}), flush=True)
    return 0


def _arguments(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench recipe", allow_abbrev=False)
    parser.add_argument("--text", help="Parquet files with a column `text`, as a pattern")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--only", help="variants, separated by commas")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(options)


def _results(curves: dict[str, list[list[float]]]) -> list[Result]:
    """Final losses, with each variant's mean difference from ours over the seeds and, from several, its error."""
    ours = [curve[-1] for curve in curves["ours"]]
    results = [Result("ours", "nats", tuple(ours))]
    for name in [name for name in curves if name != "ours"]:
        last = [curve[-1] for curve in curves[name]]
        differences = [theirs - mine for theirs, mine in zip(last, ours, strict=True)]
        error = f" ± {stdev(differences) / len(differences) ** 0.5:.4f}" if len(differences) > 1 else ""
        print(f"{name:<20} {mean(differences):+.4f}{error} nats against ours, {len(differences)} seeds")
        results.append(Result(name, "nats", tuple(last), Against("ours", mean(ours)), mean(last) / mean(ours)))
    return results


def _rows(pattern: str | None) -> tuple[PackedRows, PackedRows]:
    """Rows to train on, and held-out ones from other documents."""
    if pattern:
        import pyarrow.parquet as pq

        if not (files := sorted(glob.glob(pattern))):
            raise BenchError(f"no file is named {pattern}")
        texts = [str(text) for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]
    else:
        texts = sources(CHARS)
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=VOCABULARY))
    cut = max(1, len(texts) // 20)
    found = [
        pack_documents((tokenizer.encode(text) for text in part), T, tokenizer.special("<|bos|>"), VOCABULARY).ids
        for part in (texts[cut:], texts[:cut])
    ]
    return PackedRows(found[0]), PackedRows(found[1])


@contextmanager
def _patched(variant: Variant) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, value in variant.patches:
            stack.enter_context(patch.object(owner, name, value))
        yield


def _trained(
    variant: Variant, rows: PackedRows, held_out: PackedRows, arguments: argparse.Namespace, seed: int
) -> Iterator[float]:
    """The held-out loss in nats at `POINTS` points of a training."""
    device, steps = torch.device(arguments.device), arguments.steps
    world = World(0, 1, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    config = ModelConfig(
        depth=arguments.depth, width=32 * arguments.depth, head_size=32, sequence_len=T, window_pattern="SSSL",
        short_window=64, value_embeddings=True, residual_lambdas=True, smear=True, backout=True,
    )  # fmt: skip
    model = Transformer(config, VOCABULARY, world.compute_dtype)
    model.init_weights(torch.Generator().manual_seed(seed))
    variant.start(model)
    model.to(device)
    order, checks = EpochShuffle(len(rows), seed), {round(steps * (i + 1) / POINTS) for i in range(POINTS)}
    with _patched(variant):
        updater = training.ShardedOptimizer(model, OPTIM, steps, world)
        for step in range(steps):
            inputs, targets = rows.tensors(np.array(list(order.rows(step, BATCH_ROWS))), device)
            accumulate_loss(model.loss_sum, inputs, targets, BATCH_ROWS, world)
            updater.step(step)
            if step + 1 in checks:
                yield _loss(model, held_out, device)


@torch.no_grad()
def _loss(model: Transformer, rows: PackedRows, device: torch.device) -> float:
    inputs, targets = rows.tensors(np.arange(min(len(rows), HELD_OUT_ROWS)), device)
    parts = [model.token_losses(inputs[i : i + 8], targets[i : i + 8]) for i in range(0, len(inputs), 8)]
    return float(torch.cat(parts).mean())
