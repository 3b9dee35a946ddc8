"""From the rows of lm-evaluation-harness to our records.

A task with several filters, such as the strict and the flexible reading of an answer, gives an evaluation for each. A
task that is not right or wrong by the row, such as a perplexity, gives none: its metrics are in the results only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any, cast

from aquarat_core.config.protocols import HARNESS
from aquarat_core.evaluation.harness.adapter import Question
from aquarat_core.evaluation.harness.marked_text import MarkedText
from aquarat_core.evaluation.records import Facts, HarnessFacts, Record, as_scores, prompt_hash
from aquarat_core.evaluation.suite import Answered
from aquarat_core.text.tokenizer import Tokenizer

CORRECTNESS = ("acc", "exact_match", "em")
"""The metrics that can say of a row whether it is right, the first of them that a task has."""
INVALID = "[invalid]"
"""What a filter of that program returns where it finds no answer."""
Sample = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HarnessAsked:
    """Which tasks are asked, and how."""

    tasks: Sequence[str]
    """Names of tasks, of groups or tags of them, or YAML files that describe one."""
    limit: int | None = None
    """Rows of each task; None asks all."""
    num_fewshot: int | None = None
    """Solved examples before each question; None takes what the task says."""
    chat: bool = False
    """Whether prompts are conversations, in the form of our chats."""
    seed: int = 30
    """Of what is sampled, where a task samples."""


@dataclass(frozen=True, slots=True)
class Run:
    """How the rows came about."""

    asked: HarnessAsked
    cropped: set[Question]
    truncated: set[Question]
    tokenizer: Tokenizer
    version: str

    def n_cropped(self, task: str) -> int:
        return sum(name == task for name, _ in self.cropped)


def answered(task: str, found: Mapping[str, Any], run: Run) -> list[Answered]:
    """The evaluations of a task, one for each filter, out of that program's whole results."""
    samples = cast("list[Sample]", found["samples"][task])
    filters = list(dict.fromkeys(str(s["filter"]) for s in samples))
    made: list[Answered] = []
    for one in filters:
        rows = [s for s in samples if s["filter"] == one]
        metric = _correctness(rows)
        if metric is None:
            continue
        name = f"{HARNESS}/{task}" if len(filters) == 1 else f"{HARNESS}/{task},{one}"
        config = cast("Mapping[str, Any]", found["configs"][task])
        records = [_record(s, task, metric, str(config["output_type"]), run) for s in rows]
        facts = _facts(name, task, one, found, rows, records, run)
        made.append(Answered(facts, [replace(r, evaluation=name) for r in records]))
    return made


def _correctness(rows: Sequence[Sample]) -> str | None:
    """The metric that says whether a row is right; None if there is none that is 0 or 1 on all of them."""
    for metric in CORRECTNESS:
        if all(_is_verdict(row.get(metric)) for row in rows):
            return metric
    return None


def _is_verdict(value: Any) -> bool:
    return isinstance(value, bool | int | float) and float(value) in (0.0, 1.0)


def _record(sample: Sample, task: str, metric: str, output_type: str, run: Run) -> Record:
    text = MarkedText(run.tokenizer)
    arguments = cast("Sequence[Sequence[Any]]", sample["arguments"])
    prompt = "\n".join(dict.fromkeys(text.plain(str(a[0])) for a in arguments if a[0]))
    record = Record(
        id=str(sample["doc_id"]),
        question=prompt,
        gold=str(sample["target"]),
        completion="",
        parsed=None,
        correct=bool(sample[metric]),
        n_tokens=0,
        truncated=False,
        stop_reason="scored",
        task=f"{HARNESS}/{task}",
        protocol=HARNESS,
        prompt_sha256=prompt_hash(prompt),
    )
    if output_type == "generate_until":
        return _generated(record, sample, (task, int(sample["doc_id"])) in run.truncated, run.tokenizer)
    if output_type == "multiple_choice":
        return _chosen(record, sample)
    # One continuation, which is either the most likely one or not.
    continuation = str(arguments[0][1])
    return replace(record, gold=continuation, parsed=continuation if record.correct else "another continuation")


def _generated(record: Record, sample: Sample, truncated: bool, tokenizer: Tokenizer) -> Record:
    completion = str(sample["resps"][0][0])
    read = sample["filtered_resps"][0]
    several = cast("list[Any]", read) if isinstance(read, list) else [read]
    parsed = str(several[0]) if several else INVALID
    return replace(
        record,
        completion=completion,
        parsed=None if parsed == INVALID else parsed,
        n_tokens=tokenizer.count(completion),
        truncated=truncated,
        stop_reason="length" if truncated else "stop",
    )


def _chosen(record: Record, sample: Sample) -> Record:
    """The most likely choice as its letter, with the sums of the choices' log-probabilities."""
    arguments, filtered = sample["arguments"], sample["filtered_resps"]
    # Where a metric also asks for choices without the question, these come after the others.
    scored = [(str(a[1]), float(r[0])) for a, r in zip(arguments, filtered, strict=True) if a[0]]
    scores, n = [score for _, score in scored], len(scored)
    gold, best = sample["target"], scores.index(max(scores))
    if not isinstance(gold, int):
        texts = [text.strip() for text, _ in scored]
        gold = texts.index(str(gold).strip()) if str(gold).strip() in texts else None
    if gold is None or not 0 <= gold < n or n > len(ascii_uppercase):
        return replace(record, parsed=scored[best][0], chance=1 / n)
    return replace(
        record,
        gold=ascii_uppercase[gold],
        parsed=ascii_uppercase[best],
        choice_scores=as_scores(scores),
        chance=1 / n,
    )


def _facts(
    name: str,
    task: str,
    filter: str,
    found: Mapping[str, Any],
    rows: Sequence[Sample],
    records: Sequence[Record],
    run: Run,
) -> Facts:
    config = cast("Mapping[str, Any]", found["configs"][task])
    source = "/".join(str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key))
    split = next((key for key in ("test", "validation", "training") if config.get(f"{key}_split")), "test")
    metrics = cast("Mapping[str, Any]", found["results"][task])
    choices = max((len(r.choice_scores or ()) for r in records), default=0)
    return Facts(
        name=name,
        task=f"{HARNESS}/{task}",
        protocol=HARNESS,
        split=str(config.get(f"{split}_split") or split),
        questions=f"the task {task} of lm-evaluation-harness",
        settings={
            "limit": run.asked.limit,
            "num_fewshot": found["n-shot"].get(task, 0),
            "chat": run.asked.chat,
        },
        categories=list(ascii_uppercase[:choices]),
        majority=None,
        longest=None,
        grader=f"lm_eval {run.version}, {task} {found['versions'].get(task)}",
        data_asset=source,
        data_version=hashlib.sha256("".join(str(s["doc_hash"]) for s in rows).encode()).hexdigest(),
        harness=HarnessFacts(
            metrics={key: float(value) for key, value in metrics.items() if _is_finite(key, value, filter)},
            prompts_cropped=run.n_cropped(task),
        ),
    )


def _is_finite(key: str, value: Any, filter: str) -> bool:
    """Whether it is a metric of this filter with a finite value: JSON has no other."""
    return key.endswith(f",{filter}") and isinstance(value, int | float) and math.isfinite(value)
