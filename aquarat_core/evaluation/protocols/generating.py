"""Answers that the model writes, greedy or sampled, graded by their task.

A prompt that leaves no room for the budget in the model's context is not asked, and counts as wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from aquarat_core.evaluation.records import Record, prompt_hash
from aquarat_core.rollout.batch import Completion
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key
from aquarat_core.rollout.tools import Tool, calculator
from aquarat_core.runtime.distributed import World
from aquarat_core.tasks.task import A, Example, Grade, Task
from aquarat_core.text.chat import render_prompt
from aquarat_core.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # RL needs neither
    from aquarat_core.config.evaluation import Asked
    from aquarat_core.evaluation.protocols.subject import Subject, Tell

ORDER_TOKENS = 8
"""By how many tokens a prompt may grow when its choices change places."""


def greedy(
    subject: Subject, task: Task[A], examples: Sequence[Example[A]], asked: Asked, tell: Tell | None = None
) -> list[Record]:
    """The most likely answer to each example."""
    said = greedy_completions(subject, examples, asked, tell)
    return graded(subject.tokenizer, task, examples, [[c] for c in said])


def greedy_completions(
    subject: Subject, examples: Sequence[Example[Any]], asked: Asked, tell: Tell | None = None, reserve: int = 0
) -> list[Completion | None]:
    """The most likely completion of each example; None where the context has no room for it and `reserve` tokens.

    What was generated for an earlier evaluation is not generated again: it does not depend on the others of a batch.
    """
    prompts = [render_prompt(subject.tokenizer, e.messages) for e in examples]
    keys = [(*ids, asked.max_new_tokens, int(asked.calculator)) for ids in prompts]
    new = [i for i, key in enumerate(keys) if key not in subject.said]
    known = len(examples) - len(new)
    found = completions(
        subject.engine, subject.tokenizer, [examples[i] for i in new], [[0]] * len(new), asked.max_new_tokens, 0.0,
        subject.max_rows, tool_of(subject, asked), tell and (lambda n: tell(known + n)),
    )  # fmt: skip
    subject.said |= {keys[i]: c and replace(c, logprobs=[]) for i, (c,) in zip(new, found, strict=True)}
    room = subject.sequence_len - asked.max_new_tokens - reserve
    return [subject.said[key] if len(ids) <= room else None for key, ids in zip(keys, prompts, strict=True)]


def sampled(
    subject: Subject, task: Task[A], examples: Sequence[Example[A]], asked: Asked, tell: Tell | None = None
) -> list[Record]:
    """`asked.samples` answers to each example, one after the other.

    A sample depends on (seed, task, example, number) alone: neither the ranks nor the batch change it.
    """
    keys = [[row_key("sampled", asked.seed, asked.task, e.id, n) for n in range(asked.samples)] for e in examples]
    found = completions(
        subject.engine, subject.tokenizer, examples, keys, asked.max_new_tokens, asked.temperature, subject.max_rows,
        tool_of(subject, asked), tell,
    )  # fmt: skip
    return graded(subject.tokenizer, task, examples, found)


def tool_of(subject: Subject, asked: Asked) -> Tool | None:
    """The calculator, where it is asked for."""
    return calculator(subject.tokenizer) if asked.calculator else None


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    task: Task[A],
    examples: Sequence[Example[A]],
    max_new_tokens: int,
    max_rows: int = 256,
    tool: Tool | None = None,
    tell: Tell | None = None,
) -> list[Record]:
    """Greedy answers of `engine` to `examples`, with `tool` if there is one, graded by their task."""
    keys = [[0]] * len(examples)
    found = completions(engine, tokenizer, examples, keys, max_new_tokens, 0.0, max_rows, tool, tell)
    return graded(tokenizer, task, examples, found)


def completions(
    engine: Engine,
    tokenizer: Tokenizer,
    examples: Sequence[Example[A]],
    keys: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    max_rows: int,
    tool: Tool | None,
    tell: Tell | None,
    reserve: int = 0,
) -> list[list[Completion | None]]:
    """A completion of each example for each of its keys; None where the context has no room for `max_new_tokens` and
    `reserve` more after the prompt."""
    prompts = [render_prompt(tokenizer, e.messages) for e in examples]
    room = engine.model.config.sequence_len - max_new_tokens - reserve
    asked = [i for i, ids in enumerate(prompts) if len(ids) <= room]
    if not asked:
        return [[None] * len(row_keys) for row_keys in keys]
    found = engine.generate(
        [prompts[i] for i in asked], [keys[i] for i in asked], max_new_tokens, temperature, max_rows=max_rows,
        tool=tool, tell=tell,
    )  # fmt: skip
    said = dict(zip(asked, found, strict=True))
    return [list(said[i]) if i in said else [None] * len(row_keys) for i, row_keys in enumerate(keys)]


def graded(
    tokenizer: Tokenizer, task: Task[A], examples: Sequence[Example[A]], said: Sequence[Sequence[Completion | None]]
) -> list[Record]:
    """The records of completions, one example after the other."""
    rows = [(e, n, c) for e, found in zip(examples, said, strict=True) for n, c in enumerate(found)]
    texts = ["" if c is None else tokenizer.decode(c.content) for _, _, c in rows]
    attempts = [(e, text, c.ended) for (e, _, c), text in zip(rows, texts, strict=True) if c is not None]
    grades = iter(task.grade_many(attempts))
    return [_record(task, e, n, c, text, grades) for (e, n, c), text in zip(rows, texts, strict=True)]


def _record(
    task: Task[A], example: Example[A], sample: int, completion: Completion | None, text: str, grades: Iterator[Grade]
) -> Record:
    common: dict[str, Any] = {
        "id": example.id,
        "question": example.prompt,
        "gold": example.reference,
        "completion": text,
        "task": task.name,
        "protocol": "greedy",
        "sample": sample,
        "prompt_sha256": prompt_hash(example.prompt),
        "chance": task.chance(example),
    }
    if completion is None:
        return Record(**common, parsed=None, correct=False, n_tokens=0, truncated=False, stop_reason="too_long")
    grade = next(grades)
    return Record(
        **common,
        parsed=grade.answer,
        correct=grade.correct,
        n_tokens=len(completion.content),
        truncated=not completion.ended,
        stop_reason="stop" if completion.ended else "length",
        ambiguous=grade.notes.get("ambiguous", 0.0) > 0,
    )


def fitting(
    examples: Sequence[Example[A]], tokenizer: Tokenizer, max_new_tokens: int, sequence_len: int
) -> list[Example[A]]:
    """The examples that leave room for `max_new_tokens`, in any order of their choices."""

    def fits(example: Example[A]) -> bool:
        room = sequence_len - max_new_tokens - (ORDER_TOKENS if example.choices else 0)
        return len(render_prompt(tokenizer, example.messages)) <= room

    return [e for e in examples if fits(e)]


def accuracy(
    engine: Engine,
    tokenizer: Tokenizer,
    task: Task[A],
    examples: Sequence[Example[A]],
    max_new_tokens: int,
    world: World,
    tool: Tool | None = None,
) -> float:
    """Share of `examples` answered right, over all ranks."""
    records = answer(engine, tokenizer, task, world.shard(list(examples)), max_new_tokens, tool=tool)
    counts = torch.tensor([sum(r.correct for r in records), len(records)], dtype=torch.float64, device=world.device)
    right, n = world.totals(counts)
    return right / n
