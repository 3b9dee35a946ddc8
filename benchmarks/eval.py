"""Evaluation: CORE against one example at a time, in questions/s; seconds for ChatCORE and for AQuA-RAT.

The model has depth 4, width 256 and random weights, its tokenizer 8,192 ids, learned from the bundle's own text. 50
questions of each task of the real bundle are asked where `../shared` has it, else of a bundle that is made up; the
results' names say which. What it is compared with is the tests' reference (`tests/evaluation/one_at_a_time.py`): all
prompts of one question in one padded pass, logits of every position. Both use all cores and the same compute type, and
both times contain reading and encoding the bundle. The answers are compared in float32: in bfloat16 the last digits of
a product depend on the shape of its batch, so two choices of nearly the same likelihood may change places.

AQuA-RAT's 254 validation questions are answered greedily with 64 new tokens each. Of ChatCORE, 100 questions of each of
the seven tasks are asked, GSM8K's with and without the calculator, with 256 new tokens where the model writes. Their
rows are those of `../shared`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from aquarat_core.config import CoreConfig, LaunchConfig, TokenizerConfig
from aquarat_core.evaluation.core.archive import unpack
from aquarat_core.evaluation.core.bundle import Bundle
from aquarat_core.evaluation.core.scoring import evaluate_core
from aquarat_core.runtime.distributed import World, compute_dtype
from aquarat_core.runtime.memory import keep_freed_memory
from aquarat_core.settings import REPO_ROOT
from aquarat_core.text.tokenizer import Tokenizer, train_tokenizer
from benchmarks import eval_chat
from benchmarks.harness import Result, compare
from benchmarks.random_models import random_model
from tests.evaluation import one_at_a_time
from tests.evaluation.bundles import write_bundle

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
        kind, bundle = bundle_in(Path(folder))
        tokenizer, dtype = learned_from(Bundle(bundle)), compute_dtype(LaunchConfig(), torch.device("cpu"))
        return [*_core(kind, bundle, tokenizer, dtype), *eval_chat.measure(tokenizer, dtype)]


def bundle_in(folder: Path) -> tuple[str, Path]:
    """A name for the bundle, and the folder where it is: the real one if there is one."""
    if not REAL_BUNDLE.is_file():
        return "made up", write_bundle(folder / "made_up", LIMIT)
    unpack(REAL_BUNDLE, folder)
    return "real", folder


def learned_from(bundle: Bundle) -> Tokenizer:
    """A tokenizer that has learned from the bundle's questions."""
    texts = (
        f"{row.contexts[0]} {row.endings[0]}" for task in bundle.tasks for row in bundle.rows(task)[:TRAINING_ROWS]
    )
    return train_tokenizer(texts, TokenizerConfig(vocab_size=VOCABULARY))


def _core(kind: str, folder: Path, tokenizer: Tokenizer, dtype: torch.dtype) -> list[Result]:
    name, against = f"core/{kind}/{len(Bundle(folder).tasks)} tasks x {LIMIT}", "one example at a time"
    batched, alone = _both_ways(folder, tokenizer, dtype)
    speed = compare(name, "questions/s", rate(batched), rate(alone), against, runs=RUNS, goal="≥ 4")
    batched, alone = _both_ways(folder, tokenizer, torch.float32)
    different = sum(a != b for a, b in zip(batched(), alone(), strict=True))
    return [speed, Result(f"{name}, answered differently", "questions", (float(different),), goal="≤ 0 questions")]


Answers = Callable[[], list[bool]]
"""Asks all questions of CORE, and says which answers are right."""


def _both_ways(folder: Path, tokenizer: Tokenizer, dtype: torch.dtype) -> tuple[Answers, Answers]:
    """CORE in batches, and one example at a time."""
    world = World(0, 1, torch.device("cpu"), dtype)
    model = random_model(tokenizer.vocab_size, dtype)
    plain = one_at_a_time.with_longer_context(model, LONGEST)

    def batched() -> list[bool]:
        found = evaluate_core(model, tokenizer, folder, CoreConfig(limit=LIMIT), world)
        assert found is not None
        return [a.correct for a in found.answers]

    def alone() -> list[bool]:
        return [found.correct for found in one_at_a_time.answers(plain, tokenizer, folder, LIMIT)]

    return batched, alone


def rate(answers: Answers) -> Callable[[], float]:
    """A measurement of questions per second."""

    def measure() -> float:
        started = time.perf_counter()
        n = len(answers())
        return n / (time.perf_counter() - started)

    return measure
