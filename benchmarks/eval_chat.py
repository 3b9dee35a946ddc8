"""The part of the bench of evaluation that asks AQuA-RAT and the tasks of ChatCORE, on rows from `../shared`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from aquarat_core.config import EvalConfig
from aquarat_core.config.evaluation import CHAT_CORE, Asked, ChatCoreConfig
from aquarat_core.evaluation.protocols.evaluator import PROTOCOLS
from aquarat_core.evaluation.protocols.subject import Subject
from aquarat_core.settings import REPO_ROOT
from aquarat_core.tasks.registry import load_task
from aquarat_core.tasks.task import Example
from aquarat_core.text.tokenizer import Tokenizer
from benchmarks.harness import BenchError, Result, unmeasured
from benchmarks.random_models import random_model
from tests.data.conftest import RUN_STAGE
from tests.serving import hub_server

SERVER = REPO_ROOT.parent / "shared/tools/hub_server.py"
RUNS = 3
QUESTIONS = 100
"""Of each task of ChatCORE."""
CHAT_TOKENS, AQUA_TOKENS = 256, 64
"""New tokens of an answer; a model with random weights hardly ever ends one before."""
GOALS = {torch.bfloat16: "≤ 10 s", torch.float32: "≤ 25 s"}
"""Of AQuA-RAT, by compute type."""
CHAT_GOAL = "≤ 180 s"


def measure(tokenizer: Tokenizer, dtype: torch.dtype) -> list[Result]:
    """Seconds for AQuA-RAT's validation questions, greedily, and for all of ChatCORE."""
    names = {f"aqua/greedy/254 x {AQUA_TOKENS} tokens": GOALS[dtype], f"chatcore/7 tasks x {QUESTIONS}": CHAT_GOAL}
    if not SERVER.is_file():
        reason = "there is no ../shared/tools/hub_server.py, which serves the rows"
        return [unmeasured(name, "s", reason, goal) for name, goal in names.items()]
    with tempfile.TemporaryDirectory() as folder:
        data = _rows(Path(folder))
        aqua, chat = names
        asked = EvalConfig(task="aqua", split="validation", max_new_tokens=AQUA_TOKENS).asked()[:1]
        results = [_timed(aqua, asked, data, tokenizer, dtype, names[aqua])]
        tasks = tuple(task for task, _, _ in CHAT_CORE)
        config = EvalConfig(
            task="aqua", max_new_tokens=CHAT_TOKENS, chat_core=ChatCoreConfig(limit=QUESTIONS, tasks=tasks)
        )
        # Validation, as the rows of a test split are of another number.
        return [*results, _timed(chat, config.of_chat_core(), data, tokenizer, dtype, CHAT_GOAL)]


def _timed(
    name: str, asked: list[Asked], data: dict[str, Path], tokenizer: Tokenizer, dtype: torch.dtype, goal: str
) -> Result:
    subject = Subject(random_model(tokenizer.vocab_size, dtype), tokenizer)
    examples = {one.name: _examples(one, data) for one in asked}
    seconds: list[float] = []
    for _ in range(RUNS):
        started = time.perf_counter()
        for one in asked:
            records = PROTOCOLS[one.protocol](subject, load_task(one.task), examples[one.name], one, None)
            assert len(records) == len(examples[one.name])
        seconds.append(time.perf_counter() - started)
    return Result(name, "s", tuple(seconds), goal=goal)


def _examples(asked: Asked, data: dict[str, Path]) -> list[Example[Any]]:
    task = load_task(asked.task)
    folder = data["aqua_dataset" if asked.task == "aqua" else "chat_datasets"]
    return [task.shown(e, asked.seed) for e in task.examples(lambda file: folder / file, asked.split)[: asked.limit]]


def _rows(folder: Path) -> dict[str, Path]:
    """The data sets' folders by asset, made by their stages from the served copies of the Hub's."""
    sources = [{"name": task, "n_train": 0, "n_test": QUESTIONS} for task, _, _ in CHAT_CORE if task != "aqua"]
    configs: dict[str, dict[str, Any]] = {
        "aqua_dataset": {"source": "hub", "n_train": QUESTIONS},
        "chat_datasets": {"source": "hub", "sources": sources},
    }
    with hub_server(SERVER, folder) as endpoint:
        for asset, config in configs.items():
            environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "PYTHONPATH": str(REPO_ROOT)}
            command = [sys.executable, "-c", RUN_STAGE, asset, json.dumps(config), str(folder / asset)]
            done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
            said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"message": done.stderr}
            if "metrics" not in said:
                raise BenchError(f"{asset} was not made: {said['message'][-2000:]}")
    return {asset: folder / asset for asset in configs}
