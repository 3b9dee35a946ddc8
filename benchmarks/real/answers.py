"""What checkpoints of `./run bench rl-real` answer, by the project's protocols; kept, so nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.config import LaunchConfig, Profile
from aquarat_core.config.evaluation import Asked
from aquarat_core.config.protocols import EvalProtocol
from aquarat_core.evaluation.figures import grouped
from aquarat_core.evaluation.protocols.evaluator import PROTOCOLS
from aquarat_core.evaluation.protocols.generating import fitting
from aquarat_core.evaluation.protocols.subject import Subject
from aquarat_core.evaluation.records import Record
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.runtime.distributed import compute_dtype
from aquarat_core.stages.task_inputs import TaskInput, input_from
from aquarat_core.tasks.registry import dataset_of
from aquarat_core.tasks.task import Example
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer

Of = Literal["correct", "parsed"]
SEED = 77
"""Of the orders of options and the samples: not that of training."""


class Questions:
    """The questions of one task that fit the policy's context, as RL selects them."""

    def __init__(self, task: str, made: dict[str, Artifact], profile: Profile) -> None:
        rl = profile.rl_checkpoint
        definitions = {name: own.definition for name, own in profile.tasks.items()}
        self.input: TaskInput = input_from(made[dataset_of(task)], task, definitions)
        self.task, self.name = self.input.task, task
        self.max_new_tokens, self.calculator = rl.max_new_tokens, rl.calculator
        self._tokenizer = Tokenizer.load(made["tokenizer"].path(TOKENIZER_FILE))
        self._room = profile.base_checkpoint.model.sequence_len

    def split(self, *splits: str, limit: int | None = None) -> list[Example[Any]]:
        """The questions of the splits, of each the first `limit` and of these those that fit."""
        return [
            e
            for split in splits
            for e in fitting(
                self.input.examples(split)[:limit], self._tokenizer, self.max_new_tokens, self._room
            )
        ]  # fmt: skip


class Answers:
    """Asks checkpoints and keeps what they say in files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._open: tuple[str, Subject] | None = None

    def rotated(self, checkpoint: Artifact, questions: Questions, examples: Sequence[Example[Any]]) -> list[Record]:
        """Greedy answers under every cyclic order of the options."""
        return self._ask(checkpoint, questions, examples, "rotated", 1)

    def greedy(self, checkpoint: Artifact, questions: Questions, examples: Sequence[Example[Any]]) -> list[Record]:
        """One greedy answer to each question."""
        return self._ask(checkpoint, questions, examples, "greedy", 1)

    def sampled(
        self, checkpoint: Artifact, questions: Questions, examples: Sequence[Example[Any]], samples: int
    ) -> list[Record]:
        """Answers at temperature 1, as RL samples them, with the options in an order of their own."""
        shown = [questions.task.shown(e, SEED) for e in examples]
        return self._ask(checkpoint, questions, shown, "sampled", samples)

    def _ask(
        self,
        checkpoint: Artifact,
        questions: Questions,
        examples: Sequence[Example[Any]],
        protocol: EvalProtocol,
        samples: int,
    ) -> list[Record]:
        asked = Asked(
            task=questions.name, protocol=protocol, split="validation", limit=None, samples=samples, temperature=1.0,
            max_new_tokens=questions.max_new_tokens, calculator=questions.calculator, cue="answer",
            permute_options=False, seed=SEED,
        )  # fmt: skip
        key = canonical([checkpoint.data_version, asdict(asked), [(e.id, e.prompt) for e in examples]])
        kept = self.folder / f"{checkpoint.asset}-{protocol}-{hashlib.sha256(key).hexdigest()[:16]}.json"
        if kept.is_file():
            return [Record.of(row) for row in json.loads(kept.read_text())]
        records = PROTOCOLS[protocol](self._subject(checkpoint), questions.task, examples, asked, None)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps([asdict(r) for r in records]))
        part.replace(kept)
        return records

    def _subject(self, checkpoint: Artifact) -> Subject:
        if self._open is None or self._open[0] != checkpoint.sha256:
            device = torch.device("cpu")
            model, tokenizer = load_checkpoint(checkpoint.directory(), device, compute_dtype(LaunchConfig(), device))
            self._open = checkpoint.sha256, Subject(model, tokenizer)
        return self._open[1]


def shares(records: Sequence[Record], of: Of = "correct") -> dict[str, float]:
    """The share of each question's answers that are right, or that can be read at all, by the question's id."""
    found: dict[str, float] = {}
    for rows in grouped(records):
        counted = [r.correct if of == "correct" else r.parsed is not None for r in rows]
        found[rows[0].id] = sum(counted) / len(counted)
    return found
