"""Rewards that ignore the answer must teach nothing: random and constant-letter rewards against the real one.

Three runs of the profile's RL stage start from the same SFT checkpoint of the store and differ in the reward alone:
the right letter, a fifth at random, and the letter A. The last policy of each, not the best, is asked the same held-out
test questions, with permuted options, as the checkpoint it started from. The goal is on the gain that an exact
one-sided McNemar test allows to call real at p < 0.01: none for a control, and a real one for the real reward, without
which the controls say nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch

from aquarat_core.artifacts import Artifact
from aquarat_core.config import LaunchConfig, load_profile
from aquarat_core.evaluation.protocols import answer
from aquarat_core.evaluation.records import Record
from aquarat_core.evaluation.statistics import binomial_test
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.rollout.engine import Engine
from aquarat_core.runtime.distributed import compute_dtype
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.tasks.registry import load_task
from aquarat_core.text.chat import stop_tokens
from benchmarks import rl_stage
from benchmarks.harness import Against, Result

QUESTIONS = 1000
STEPS = 60
"""Of each run: enough for the real reward to be seen at work."""
REWARDS = {"real": "none", "random": "random", "constant_letter": "constant"}
SIGNIFICANT = 0.01


def run() -> list[Result]:
    """Trains three times and asks four times."""
    found = rl_stage.inputs()
    before = _answers(found["sft_checkpoint"].directory(), found["aqua_dataset"])
    results = []
    with scratch_folder("bench") as scratch:
        for name, control in REWARDS.items():
            folder = scratch / name
            changes = {"steps": STEPS, "eval_every": STEPS, "publish": "last", "max_zero_variance": 1.0}
            rl_stage.train(folder, **changes, reward={"control": control})
            results += _results(name, before, _answers(folder / "content", found["aqua_dataset"]))
    return results


def _answers(checkpoint: Path, aqua: Artifact) -> list[Record]:
    """Greedy answers of a checkpoint to the first test questions."""
    config, device = load_profile().eval_report, torch.device("cpu")
    task = load_task("aqua")
    examples = [task.shown(e, config.seed) for e in task.examples(aqua.path, "test")[:QUESTIONS]]
    model, tokenizer = load_checkpoint(checkpoint, device, compute_dtype(LaunchConfig(), device))
    engine = Engine(model, stop_tokens(tokenizer))
    return answer(engine, tokenizer, task, examples, config.max_new_tokens)


def _results(name: str, before: list[Record], after: list[Record]) -> list[Result]:
    gained = sum(b.correct and not a.correct for a, b in zip(before, after, strict=True))
    lost = sum(a.correct and not b.correct for a, b in zip(before, after, strict=True))
    p = binomial_test(gained, gained + lost, 0.5) if gained + lost else 1.0
    goal = f"≤ {SIGNIFICANT} p" if name == "real" else f"≥ {SIGNIFICANT} p"
    accuracy = sum(r.correct for r in after) / len(after)
    start = Against("SFT", 100 * sum(r.correct for r in before) / len(before))
    return [
        Result(
            f"{name}/accuracy", "%", (100 * accuracy,), start, 100 * accuracy / start.value if start.value else None
        ),
        Result(f"{name}/p_of_the_gain", "p", (p,), goal=goal),
    ]
