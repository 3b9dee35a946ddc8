"""The answers of an eval report, read from its `questions.parquet` and `report.json`, which may hold anything.

The table stays in Arrow's memory-mapped form; only the short columns are Python lists, and long texts are read for the
rows that are shown.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, cast

import pyarrow as pa

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.bounded import parse
from aquarat_core.data.foreign import read_foreign
from aquarat_core.errors import DataError
from aquarat_core.evaluation.records import SCHEMA, prompt_hash
from aquarat_core.plain_text import first_line
from aquarat_core.tasks.choice import MARKER

MAX_BYTES = 256 << 20
MAX_ROWS = 300_000
MAX_TEXT = 20_000
"""Characters of a prompt or an answer that are shown."""
KEPT = 12
"""Reports whose answers stay in memory."""
CUED = ("letters", "cued")
"""Protocols that compare letters after the words for an answer."""
NEWLINE = "\n"
MAIN = ""
"""The name of the only evaluation in older reports."""
_REMEDY = "Materialize the report again."
_NEEDED = ("id", "question", "gold", "completion", "parsed", "correct")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as pages show it; the fields are those of `evaluation.records.Record`."""

    id: str
    gold: str
    parsed: str | None
    correct: bool
    sample: int
    stop_reason: str
    prompt_sha256: str

    @property
    def wrong_form(self) -> bool:
        """Whether the task could not read the answer."""
        return self.parsed is None and self.stop_reason != "scored"


@dataclass(frozen=True)
class Answers:
    """All answers of one report."""

    report: Artifact
    facts: Mapping[str, Mapping[str, Any]]
    """By evaluation, what the report says of it; empty for older reports."""
    rows: Mapping[str, Mapping[str, Sequence[int]]]
    """By evaluation and question id, the numbers of the rows, in the order of the file."""
    answers: Sequence[Answer]
    """By row."""
    _table: pa.Table

    def named(self, evaluation: str) -> str:
        """The evaluation of that name, or the first one if the name is empty. Raises `DataError`."""
        if evaluation in self.rows:
            return evaluation
        if not evaluation and self.rows:
            return next(iter(self.rows))
        raise DataError(f"{self.report.asset} {self.report.sha256[:12]} has no evaluation {evaluation[:100]!r}")

    def of(self, evaluation: str, question: str) -> list[int]:
        """The rows of one question, in the order of their samples; none if it was not asked."""
        rows = self.rows.get(evaluation, {}).get(question, [])
        return sorted(rows, key=lambda row: self.answers[row].sample)

    def share(self, evaluation: str, question: str) -> float | None:
        """The share of right answers to a question; None if it was not asked."""
        rows = self.rows.get(evaluation, {}).get(question, [])
        return sum(self.answers[row].correct for row in rows) / len(rows) if rows else None

    def text(self, column: str, row: int) -> str:
        """The prompt (`question`) or the answer (`completion`) of a row, cut off after `MAX_TEXT` characters."""
        held = self._table.column(column)[row].cast(pa.binary()).as_py()
        return (held or b"")[: 4 * MAX_TEXT].decode("utf-8", "replace")[:MAX_TEXT]

    def written(self, evaluation: str, row: int) -> str:
        """The answer as text to look into; where letters were compared, with the one that won after the cue."""
        text, parsed = self.text("completion", row), self.answers[row].parsed
        if self.facts.get(evaluation, {}).get("protocol") not in CUED or parsed is None:
            return text
        return f"{text}{'' if not text or text.endswith(NEWLINE) else NEWLINE}{MARKER}{parsed}"

    def scores(self, row: int) -> list[float] | None:
        """The log-probabilities of the choices, where they were compared and all are numbers."""
        if "choice_scores" not in self._table.column_names:
            return None
        found = self._table.column("choice_scores")[row].as_py()
        if found is None or not all(x is not None and math.isfinite(x) for x in found):
            return None
        return [float(x) for x in found][:26]

    def tokens(self, row: int) -> int:
        """Generated tokens of a row."""
        if "n_tokens" not in self._table.column_names:
            return 0
        return int(self._table.column("n_tokens")[row].as_py() or 0)

    def letters(self, evaluation: str) -> tuple[str, ...]:
        """The letters that answers of the evaluation can have, by its right answers; none for open answers."""
        golds = {self.answers[row].gold for rows in self.rows.get(evaluation, {}).values() for row in rows}
        if not all(len(gold) == 1 and gold in ascii_uppercase for gold in golds):
            return ()
        return tuple(ascii_uppercase[: ascii_uppercase.index(max(golds, default="A")) + 1])


class Reader:
    """Reads the answers of reports, and keeps those that were used last. It can be used from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Answers] = OrderedDict()
        self._lock = threading.Lock()
        self._reading: dict[str, threading.Lock] = {}

    def read(self, report: Artifact) -> Answers:
        """The answers of a report. Raises `DataError` for damaged files and `ArtifactError` for missing ones."""
        with self._lock:
            if report.sha256 in self._kept:
                self._kept.move_to_end(report.sha256)
                return self._kept[report.sha256]
            one = self._reading.setdefault(report.sha256, threading.Lock())
        with one:
            with self._lock:
                if report.sha256 in self._kept:
                    return self._kept[report.sha256]
            found = read_answers(report)
            with self._lock:
                self._kept[report.sha256] = found
                self._reading.pop(report.sha256, None)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            return found


def read_answers(report: Artifact) -> Answers:
    """The answers of a report. Raises as `Reader.read` does."""
    name = f"{report.asset} {report.sha256[:12]}"
    size = next((entry.size for entry in report.manifest.files if entry.path == "questions.parquet"), 0)
    if size > MAX_BYTES:
        raise DataError(f"the answers of {name} have {size:,} bytes, more than the explorer's {MAX_BYTES:,}")
    facts = _facts(report.path("report.json"), f"report.json of {name}")
    table = _table(report.path("questions.parquet"), name)
    answers = _answers(table, name)
    evaluations = _columns(table, name, {"evaluation": MAIN})[0]
    rows: dict[str, dict[str, list[int]]] = {}
    for row, answer in enumerate(answers):
        rows.setdefault(str(evaluations[row] or MAIN), {}).setdefault(answer.id, []).append(row)
    return Answers(report, facts, rows, answers, table)


def _table(path: Path, name: str) -> pa.Table:
    """The file's columns with our types; it is read by another process, which a damaged file may crash."""
    try:
        found = read_foreign(path, None, MAX_ROWS)
    except DataError as e:
        raise DataError(f"the answers of {name} cannot be read: {first_line(e)}. {_REMEDY}") from None
    if missing := [column for column in _NEEDED if column not in found.column_names]:
        raise DataError(f"the answers of {name} have no column {missing[0]}. {_REMEDY}")
    names = [column for column in SCHEMA.names if column in found.column_names]
    table = found.select(names)
    kinds, wanted = (
        dict(zip(names, table.schema.types, strict=True)),
        dict(zip(SCHEMA.names, SCHEMA.types, strict=True)),
    )
    for column, kind in kinds.items():
        if kind != wanted[column]:
            raise DataError(f"the column {column} of {name} holds {str(kind)[:40]}, not {wanted[column]}. {_REMEDY}")
    return table


def _answers(table: pa.Table, name: str) -> list[Answer]:
    wanted = {
        "id": "", "gold": "", "parsed": None, "correct": False, "sample": 0, "stop_reason": "", "prompt_sha256": "",
    }  # fmt: skip
    return [
        Answer(str(id)[:500], str(gold)[:500], None if parsed is None else str(parsed)[:500], bool(correct),
               int(sample or 0), str(stop or ""), str(prompt or ""))
        for id, gold, parsed, correct, sample, stop, prompt in zip(*_columns(table, name, wanted), strict=True)
    ]  # fmt: skip


def _columns(table: pa.Table, name: str, wanted: Mapping[str, object]) -> list[list[Any]]:
    """The columns with these names; a column that is missing has its default in each row. Raises `DataError`."""
    try:
        return [_column(table, column, default) for column, default in wanted.items()]
    except (UnicodeDecodeError, pa.ArrowException) as e:
        raise DataError(f"the answers of {name} hold text that is not UTF-8 ({first_line(e)}). {_REMEDY}") from None


def _column(table: pa.Table, name: str, default: object) -> list[Any]:
    if name not in table.column_names:
        return [default] * len(table)
    return table.column(name).to_pylist()


def _facts(path: Path, what: str) -> dict[str, dict[str, Any]]:
    report = parse(path.read_bytes(), what, _REMEDY, "object")
    found = report.get("evaluations")
    if not isinstance(found, list):
        return {}
    entries = [cast("dict[str, Any]", one) for one in cast("list[object]", found) if isinstance(one, dict)]
    return {str(one.get("name")): one for one in entries}


def same_prompt(one: tuple[Answers, int], other: tuple[Answers, int]) -> bool:
    """Whether two rows were asked with the same prompt: the same text with options in the same order."""
    first, second = one[0].answers[one[1]], other[0].answers[other[1]]
    if first.gold != second.gold:
        return False
    if first.prompt_sha256 and second.prompt_sha256:
        return first.prompt_sha256 == second.prompt_sha256
    return prompt_hash(one[0].text("question", one[1])) == prompt_hash(other[0].text("question", other[1]))
