"""Evaluation: CORE in batches against one example at a time, in questions/s, and how many answers differ.

The model has depth 4, width 256 and random weights, its tokenizer 8,192 ids, learned from the bundle's own text. 50
questions of each task of the real bundle are asked where `../shared` has it, else of a bundle that is made up; the
results' names say which. What it is compared with is the tests' reference (`tests/evaluation/one_at_a_time.py`): all
prompts of one question in one padded pass, logits of every position. Both use all cores and the same compute type, and
both times contain reading and encoding the bundle.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from aquarat_core.config import CoreConfig, LaunchConfig, ModelConfig, TokenizerConfig
from aquarat_core.evaluation.core.archive import unpack
from aquarat_core.evaluation.core.bundle import Bundle
from aquarat_core.evaluation.core.scoring import evaluate_core
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World, compute_dtype
from aquarat_core.runtime.memory import keep_freed_memory
from aquarat_core.settings import REPO_ROOT
from aquarat_core.text.tokenizer import train_tokenizer
from benchmarks.harness import Result, compare
from tests.evaluation import one_at_a_time
from tests.evaluation.bundles import write_bundle

MODEL = ModelConfig(depth=4, width_per_layer=64, head_size=64, sequence_len=1024)
VOCABULARY = 8_192
TRAINING_ROWS = 500
"""Of each task, whose text the tokenizer learns from."""
LIMIT = 50
RUNS = 3
LONGEST = 8_192
"""Tokens that the model of the reference has room for."""
REAL_BUNDLE = REPO_ROOT.parent / "shared/hub/files/eval_bundle.zip"


def run() -> list[Result]:
    """Measures on all cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory()  # as every rank does
    with tempfile.TemporaryDirectory() as folder:
        return _core(*bundle_in(Path(folder)))


def bundle_in(folder: Path) -> tuple[str, Path]:
    """A name for the bundle, and the folder where it is: the real one if there is one."""
    if not REAL_BUNDLE.is_file():
        return "made up", write_bundle(folder / "made_up", LIMIT)
    unpack(REAL_BUNDLE, folder)
    return "real", folder


def _core(kind: str, folder: Path) -> list[Result]:
    bundle = Bundle(folder)
    texts = (
        f"{row.contexts[0]} {row.endings[0]}" for task in bundle.tasks for row in bundle.rows(task)[:TRAINING_ROWS]
    )
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=VOCABULARY))
    world = World(0, 1, torch.device("cpu"), compute_dtype(LaunchConfig(), torch.device("cpu")))
    model = random_model(tokenizer.vocab_size, world.compute_dtype)
    plain = one_at_a_time.with_longer_context(model, LONGEST)
    batched: list[bool] = []
    alone: list[bool] = []

    def ours() -> list[bool]:
        found = evaluate_core(model, tokenizer, folder, CoreConfig(limit=LIMIT), world)
        assert found is not None
        return [a.correct for a in found.answers]

    def theirs() -> list[bool]:
        return [found.correct for found in one_at_a_time.answers(plain, tokenizer, folder, LIMIT)]

    name, against = f"core/{kind}/{len(bundle.tasks)} tasks x {LIMIT}", "one example at a time"
    speed = compare(name, "questions/s", rate(ours, batched), rate(theirs, alone), against, runs=RUNS, goal="≥ 4")
    different = sum(a != b for a, b in zip(batched, alone, strict=True))
    return [speed, Result(f"{name}, answered differently", "questions", (float(different),), goal="≤ 0 questions")]


def rate(answers: Callable[[], list[bool]], kept: list[bool]) -> Callable[[], float]:
    """A measurement of questions per second, which keeps its answers."""

    def measure() -> float:
        started = time.perf_counter()
        kept[:] = answers()
        return len(kept) / (time.perf_counter() - started)

    return measure


@torch.no_grad()
def random_model(vocab_size: int, dtype: torch.dtype) -> Transformer:
    """Weights of which none is zero, so that every layer has a say in the answers."""
    model, generator = Transformer(MODEL, vocab_size, dtype), torch.Generator().manual_seed(0)
    model.init_weights(generator)
    for block in model.blocks:
        block.attention.out.weight.normal_(0.0, 0.05, generator=generator)
        block.mlp.down.weight.normal_(0.0, 0.02, generator=generator)
    model.head.weight.normal_(0.0, 0.1, generator=generator)
    return model
