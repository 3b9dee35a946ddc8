"""What a model said to each question, or how probable it found each choice: one table for all tasks and protocols.

The rows of all evaluations of a checkpoint are one Parquet file. What rows cannot say (`Facts`: the settings, the
training split's commonest answer, the hashes of grader and data) is JSON in the file's metadata, so that every figure
can be computed again from the file alone (`evaluation/figures.py`, `rebuild`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.config.protocols import GREEDY, RecordedProtocol
from aquarat_core.data.parquet import damage_named, read_parts, write_table
from aquarat_core.errors import DataError

FORMAT = 1
_METADATA = b"aquarat.evaluations"
_BEFORE = [
    ("id", pa.string()),
    ("question", pa.string()),
    ("gold", pa.string()),
    ("completion", pa.string()),
    ("parsed", pa.string()),
    ("correct", pa.bool_()),
    ("n_tokens", pa.int32()),
    ("truncated", pa.bool_()),
    ("stop_reason", pa.string()),
]
"""The columns of files from before there were several tasks and protocols; they are still read."""
_ADDED = [
    ("evaluation", pa.string()),
    ("task", pa.string()),
    ("protocol", pa.string()),
    ("sample", pa.int32()),
    ("prompt_sha256", pa.string()),
    ("choice_scores", pa.list_(pa.float32())),
    ("chance", pa.float64()),
    ("ambiguous", pa.bool_()),
]
SCHEMA = pa.schema([*_BEFORE, *_ADDED])
StopReason = Literal["stop", "length", "too_long", "scored"]


@dataclass(frozen=True, slots=True)
class Record:
    """One question and one answer to it. Field order is the column order of the Parquet file."""

    id: str
    question: str
    """The prompt as the model read it: options in the order it saw them."""
    gold: str
    """The right answer, for choices the letter in that order."""
    completion: str
    """What the model wrote; empty where only the likelihood of choices was asked."""
    parsed: str | None
    """The answer as the task read it or the most likely choice; None without one."""
    correct: bool
    """Whether the task took the answer for right; one that does not parse is wrong."""
    n_tokens: int
    """Generated tokens, the stop token not counted."""
    truncated: bool
    """True when the token limit cut the completion off."""
    stop_reason: StopReason
    """`too_long`: prompt and budget did not fit the context, so nothing was asked; the answer counts as wrong.
    `scored`: choices were compared, and nothing was generated for the answer itself."""
    evaluation: str = ""
    """The name of the evaluation that the row belongs to, unique in its file; `Asked.name`."""
    task: str = ""
    protocol: RecordedProtocol = GREEDY
    sample: int = 0
    """Number of the sample; by how many places the options were rotated; otherwise 0."""
    prompt_sha256: str = ""
    """Of the prompt's text with the cue after it, if any."""
    choice_scores: tuple[float, ...] | None = None
    """Where choices were compared: for each the log-probability of its letter, or the mean log-probability of the
    tokens of its text, or the sum where lm-evaluation-harness compares sums, in nats, as float32."""
    chance: float = 0.0
    """How often a guess is right on this question."""
    ambiguous: bool = False
    """Whether the completion announced more than one answer."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Record:
        """A record from its fields as JSON or Parquet have them."""
        scores: Sequence[float] | None = values.get("choice_scores")
        changed: dict[str, Any] = {**values, "choice_scores": None if scores is None else tuple(scores)}
        return cls(**changed)


class HarnessFacts(TypedDict):
    """What lm-evaluation-harness found besides the rows."""

    metrics: dict[str, float]
    """By the names under which they are known, such as `acc,none` and `acc_stderr,none`; those that are finite."""
    prompts_cropped: int
    """Rows of the task whose prompt was longer than the model's context and lost its beginning."""


class Facts(TypedDict):
    """What the rows of an evaluation do not say of it."""

    name: str
    task: str
    protocol: RecordedProtocol
    split: str
    questions: str
    """What the questions are, in the words of a report."""
    settings: dict[str, Any]
    """How they were asked: limit, samples, temperature and the like."""
    categories: list[str]
    """The answers that the task counts by name."""
    majority: str | None
    """The commonest right answer of the training split; None without one."""
    longest: float | None
    """Accuracy of always choosing the longest option, where there are options; equals share the question."""
    grader: str
    """The module that grades answers, and a hash of its source."""
    data_asset: str
    data_version: str
    """Of the artifact that the questions are from."""
    harness: NotRequired[HarnessFacts]


def as_scores(values: Iterable[float]) -> tuple[float, ...]:
    """Scores rounded to float32, as they are stored: figures of a file equal those of its records in memory."""
    return tuple(struct.unpack("f", struct.pack("f", value))[0] for value in values)


def prompt_hash(question: str, cue: str = "") -> str:
    """SHA-256 of what a model was shown: the prompt, and the beginning of the answer that was put in its mouth."""
    return sha256(f"{question}\0{cue}".encode() if cue else question.encode()).hexdigest()


def write_records(path: str | Path, records: Sequence[Record], facts: Sequence[Facts] = ()) -> None:
    """Write `records` as Parquet with the columns of `SCHEMA`, and the facts about their evaluations, the main one
    first, in the file's metadata."""
    columns = {field.name: [getattr(record, field.name) for record in records] for field in fields(Record)}
    table = pa.Table.from_pydict(columns, schema=SCHEMA)
    said = json.dumps({"format": FORMAT, "evaluations": list(facts)}, sort_keys=True, allow_nan=False)
    write_table(path, table.replace_schema_metadata({_METADATA: said.encode()}))


def read_records(path: str | Path) -> list[Record]:
    """Read what `write_records` wrote, now or before there were several protocols. Raises `DataError` if it did not."""
    optional = [name for name, _ in _ADDED]
    parts = read_parts(Path(path), SCHEMA, "evaluation records", optional=optional)
    return [Record.of(row) for part in parts for row in part.to_pylist()]


def read_facts(path: str | Path) -> list[Facts]:
    """The facts about the evaluations of a file, the main one first.

    Raises `DataError` for a file that has none, or of another format.
    """
    with damage_named(path):
        # The stubs leave open of what the schema is.
        schema = pq.read_schema(path)  # pyright: ignore[reportUnknownMemberType]
    if _METADATA not in (metadata := schema.metadata or {}):
        raise DataError(f"{path} has no facts about its evaluations, it is of an older report: materialize that again")
    said = cast("dict[str, Any]", json.loads(metadata[_METADATA]))
    if said.get("format") != FORMAT:
        raise DataError(f"{path} has facts of format {said.get('format')}, not {FORMAT}: materialize its report again")
    return said["evaluations"]


def by_evaluation(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each evaluation by its name, in the order in which they come."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.evaluation, []).append(record)
    return found
