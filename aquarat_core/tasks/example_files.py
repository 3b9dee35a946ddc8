"""Examples as Parquet: the output of `chat_datasets` for a task, one file for each task and split.

Examples are stored as rendered, so that training needs neither a task's rows nor its code. The answer, which only the
task uses, is stored as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.conversation import parts_text
from aquarat_core.data.conversations import PARTS
from aquarat_core.data.parquet import read_parts, write_table
from aquarat_core.errors import DataError
from aquarat_core.tasks.task import A, Example, FilePath, Task

_COLUMNS = [
    ("id", pa.string()),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("target", pa.string()),
    ("reference", pa.string()),
    ("choices", pa.list_(pa.string())),
    ("answer", pa.string()),
]
SCHEMA = pa.schema(_COLUMNS)
WITH_PARTS = pa.schema([*_COLUMNS, ("target_parts", PARTS)])
"""Used if any target of the file calls a tool."""


class StoredTask(Task[A]):
    """A task whose examples are stored in such files, under its name."""

    def examples(self, path: FilePath, split: str) -> list[Example[A]]:
        return list(self.iterate(path, split))

    def iterate(self, path: FilePath, split: str) -> Iterator[Example[A]]:
        return read_examples(path(f"{self.name}.{split}.parquet"))

    def references(self, path: FilePath, split: str) -> Sequence[str]:
        file = path(f"{self.name}.{split}.parquet")
        parts = read_parts(file, SCHEMA, "examples of a task", columns=["reference"])
        return [text for part in parts for text in cast("list[str]", part.column(0).to_pylist())]


def write_examples(path: str | Path, examples: Sequence[Example[Any]]) -> None:
    """Write examples whose answers are JSON values, with the columns of `SCHEMA`, or of `WITH_PARTS` if any target has
    parts."""
    schema = WITH_PARTS if any(e.target_parts for e in examples) else SCHEMA
    columns: dict[str, list[Any]] = {
        **{name: [getattr(e, name) for e in examples] for name in schema.names},
        "messages": [list(e.messages) for e in examples],
        "answer": [json.dumps(e.answer, ensure_ascii=False) for e in examples],
    }
    write_table(path, pa.Table.from_pydict(columns, schema=schema))


def stored_fault(example: Example[Any]) -> str | None:
    """Why an example made by other code cannot be stored and shown; None if it can."""
    texts: dict[str, Any] = {"id": example.id, "reference": example.reference, "target": example.target or ""}
    messages, choices = cast("tuple[Any, Any]", (example.messages, example.choices))
    for name, value in texts.items():
        if not isinstance(value, str):
            return f"{name} {str(value)[:80]!r}, which is not a text"
    if not example.id.strip():
        return "a blank id"
    if not isinstance(choices, (tuple, list)) or not all(isinstance(c, str) for c in cast("Sequence[Any]", choices)):
        return "choices that are not a tuple of texts"
    if not isinstance(messages, (tuple, list)) or not all(map(_is_message, cast("Sequence[Any]", messages))):
        return "messages that are not {role, content} with texts, as made by user_message and similar functions"
    if example.target_parts and parts_text(example.target_parts) != example.target:
        return "a target that is not parts_text of its target_parts"
    if not messages or example.messages[-1]["role"] != "user":
        return "messages whose last one is not the user's"
    try:
        held = json.dumps(example.answer, allow_nan=False, ensure_ascii=False)
        said = [message["content"] for message in example.messages]
        "".join([held, *texts.values(), *cast("Sequence[str]", choices), *said]).encode()
    except UnicodeEncodeError:
        return "text that is not Unicode"
    except (TypeError, ValueError, RecursionError) as e:
        return f"an answer that is not a JSON value ({e})"
    if json.loads(held) != example.answer:
        return "an answer that JSON would change: keys must be texts, and tuples must be lists"
    return None


def _is_message(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    fields = cast("Mapping[object, object]", value)
    return (
        fields.get("role") in ("system", "user", "assistant")
        and isinstance(fields.get("content"), str)
        and set(fields) <= {"role", "content"}
    )


def holds_examples(path: Path) -> bool:
    """Whether a Parquet file holds examples, as opposed to conversations."""
    # The stubs do not declare the type of the schema.
    return {"target", "reference"} <= set(pq.read_schema(path).names)  # pyright: ignore[reportUnknownMemberType]


def read_examples(path: Path) -> Iterator[Example[Any]]:
    """Read a file of `write_examples` in parts. Raises `DataError` for any other file."""
    number = 0
    for part in read_parts(path, WITH_PARTS, "examples of a task", optional=("target_parts",)):
        for row in part.to_pylist():
            yield _example(row, f"{path}, row {number}")
            number += 1


def _example(row: dict[str, Any], where: str) -> Example[Any]:
    try:
        return Example(
            id=row["id"],
            messages=tuple(row["messages"]),
            target=row["target"],
            answer=json.loads(row["answer"]),
            reference=row["reference"],
            choices=tuple(row["choices"]),
            target_parts=tuple(row.get("target_parts", ())),
        )
    except (TypeError, ValueError):
        raise DataError(f"{where}: it is not an example of a task; chat_datasets did not write it") from None
