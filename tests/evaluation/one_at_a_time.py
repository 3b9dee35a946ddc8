"""CORE as slowly and plainly as it can be written: the reference for the batched evaluation, and what it is timed with.

One question at a time, all of its prompts in one padded pass, logits of every position. It reads the bundle with the
standard library, renders prompts with Jinja, and shares no code with `aquarat_core.evaluation`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from jinja2 import Template

from aquarat_core.model.transformer import Transformer
from aquarat_core.text.tokenizer import Tokenizer

EXAMPLES = {
    "multiple_choice": "{% for e in examples %}{{ e.query }}{{ d }}{{ e.choices[e.gold] }}\n\n{% endfor %}",
    "schema": "{% for e in examples %}{{ e.context_options[e.gold] }}{{ d }}{{ e.continuation }}\n\n{% endfor %}",
    "language_modeling": "{% for e in examples %}{{ e.context | trim }}{{ d }}{{ e.continuation }}\n\n{% endfor %}",
}


@dataclass(frozen=True)
class Found:
    """What the model answers to one question."""

    label: str
    place: int
    chosen: int | None
    """The choice or context; of language modeling 0 if the continuation is what the model would say, None if not or
    if the prompt cannot be scored."""
    correct: bool
    losses: tuple[float, ...]
    """Mean nats per token of what is scored, of each prompt."""


def tasks(folder: Path) -> list[dict[str, Any]]:
    """The tasks of core.yaml whose data is there."""
    listed = yaml.safe_load((folder / "core.yaml").read_text())["icl_tasks"]
    return [task for task in listed if (folder / "eval_data" / task["dataset_uri"]).is_file()]


def rows_of(folder: Path, task: dict[str, Any], limit: int | None) -> list[dict[str, Any]]:
    """The questions that are asked, in order."""
    text = (folder / "eval_data" / task["dataset_uri"]).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    random.Random(1337).shuffle(rows)
    return rows[:limit] if limit else rows


def prompts_of(task: dict[str, Any], rows: Sequence[dict[str, Any]], i: int) -> list[str]:
    """The texts of question i."""
    kind, row, shots = task["icl_task_type"], rows[i], task["num_fewshot"][0]
    d = task.get("continuation_delimiter", " ")
    others = [j for j in range(len(rows)) if j != i]
    examples = [rows[j] for j in random.Random(1234 + i).sample(others, shots)] if shots else []
    before = Template(EXAMPLES[kind]).render(examples=examples, d=d)
    if kind == "multiple_choice":
        return [before + row["query"] + d + choice for choice in row["choices"]]
    if kind == "schema":
        return [before + context + d + row["continuation"] for context in row["context_options"]]
    without = before + row["context"].strip() + d
    return [without.strip(), without + row["continuation"]]


def spans(kind: str, ids: Sequence[Sequence[int]]) -> list[tuple[int, int]] | None:
    """Start and end of what is scored of each prompt; None if it cannot be scored."""
    if kind == "language_modeling":
        short, long = ids
        fits = len(short) < len(long) and list(long[: len(short)]) == list(short)
        return [(len(short), len(long))] if fits else None
    n = 0
    at = (lambda one, k: one[k]) if kind == "multiple_choice" else (lambda one, k: one[-1 - k])
    while n < min(map(len, ids)) and len({at(one, n) for one in ids}) == 1:
        n += 1
    if kind == "multiple_choice":
        return [(n, len(one)) for one in ids]
    # Equal contexts share even BOS, which nothing predicts.
    return [(max(len(one) - n, 1), len(one)) for one in ids]


@torch.no_grad()
def answers(
    model: Transformer, tokenizer: Tokenizer, folder: Path, limit: int | None = None, labels: Sequence[str] = ()
) -> Iterator[Found]:
    """The answers to all questions, task by task. The model's context must be long enough."""
    bos = tokenizer.special("<|bos|>")
    for task in tasks(folder):
        if labels and task["label"] not in labels:
            continue
        kind, rows = task["icl_task_type"], rows_of(folder, task, limit)
        for i, row in enumerate(rows):
            ids = [[bos, *tokenizer.encode(text)] for text in prompts_of(task, rows, i)]
            found = spans(kind, ids)
            if found is None:
                yield Found(task["label"], i, None, False, ())
                continue
            read = ids[1:] if kind == "language_modeling" else ids
            padded = torch.full((len(read), max(map(len, read))), bos)
            for k, one in enumerate(read):
                padded[k, : len(one)] = torch.tensor(one)
            logits = model(padded.to(model.cos.device))
            losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), padded[:, 1:].to(logits.device), reduction="none")
            means = tuple(float(losses[k, a - 1 : b - 1].mean()) for k, (a, b) in enumerate(found))
            if kind == "language_modeling":
                ((a, b),) = found
                right = logits[0, a - 1 : b - 1].argmax(dim=-1).tolist() == read[0][a:b]
                yield Found(task["label"], i, 0 if right else None, right, means)
            else:
                chosen = means.index(min(means))
                yield Found(task["label"], i, chosen, chosen == row["gold"], means)


def with_longer_context(model: Transformer, sequence_len: int) -> Transformer:
    """The same weights with a longer rotary table; layers that saw the whole context go on doing so."""
    config = model.config.model_copy(update={"sequence_len": sequence_len})
    other = Transformer(config, model.vocab_size, model.compute_dtype)
    other.load_state_dict(model.state_dict())
    for mine, theirs in zip(other.blocks, model.blocks, strict=True):
        if theirs.attention.window < model.config.sequence_len:
            mine.attention.window = theirs.attention.window
    return other
