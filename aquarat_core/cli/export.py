"""`aquarat export`: questions and conversations of a data set as JSONL files, for other tools."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.cli.artifacts import add_artifact, add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer
from aquarat_core.errors import UsageError

if TYPE_CHECKING:
    from aquarat_core.tasks.task import Example

ENDING = ".parquet"


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "export",
        help="write the questions or conversations of a data set as JSONL",
        description="A line is one JSON object: `id` and `messages` ([{role, content}]); of questions with options also"
        " `letters` and `answer_letter`, of other questions `answer`.",
    )
    add_artifact(command)
    command.add_argument("--format", choices=("jsonl",), default="jsonl", help="of the files (%(default)s)")
    command.add_argument("--out", type=Path, help="folder for the files (default: one with the asset's name)")
    command.add_argument("--only", metavar="NAME", help="of chat_datasets: this source alone")
    add_store(command)
    add_json(command)
    command.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> str:
    artifact = ArtifactStore.open(arguments.store).resolve(arguments.artifact)
    files = [f.path for f in artifact.manifest.files if f.path.endswith(ENDING)]
    if arguments.only:
        files = [name for name in files if name.startswith(f"{arguments.only}.")]
    if artifact.manifest.kind != "dataset" or not files:
        what = f" of {arguments.only}" if arguments.only else ""
        raise UsageError(
            f"{artifact.asset} has no questions or conversations{what}: aqua_dataset and chat_datasets have some"
        )
    folder = arguments.out or Path(artifact.asset)
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    for name in files:
        target = folder / f"{name.removesuffix(ENDING)}.jsonl"
        written[str(target)] = _write(target, _rows(artifact, name))
    text = "\n".join(f"{path}: {n:,} rows" for path, n in written.items())
    return answer(arguments, {"manifest_sha256": artifact.sha256, "files": written}, text)


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Writes one row after the other, and gives the file its name when it is whole. Returns the number of rows."""
    n = 0
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                n += 1
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return n


def _rows(artifact: Artifact, file: str) -> Iterator[dict[str, Any]]:
    from aquarat_core.data.conversations import iterate_conversations
    from aquarat_core.tasks.example_files import holds_examples, read_examples
    from aquarat_core.tasks.registry import DATASETS, load_task

    if artifact.asset in DATASETS:
        split = file.removesuffix(ENDING)
        yield from map(_question, load_task(DATASETS[artifact.asset]).iterate(artifact.path, split))
    elif holds_examples(path := artifact.path(file)):
        yield from map(_question, read_examples(path))
    else:
        for conversation in iterate_conversations(path):
            yield {"id": conversation.id, "messages": conversation.messages}


def _question(example: Example[Any]) -> dict[str, Any]:
    messages = list(example.messages) if example.target is None else example.conversation()
    row: dict[str, Any] = {"id": example.id, "messages": messages}
    if example.choices:
        letters = list(ascii_uppercase[: len(example.choices)])
        return {**row, "letters": letters, "answer_letter": example.reference}
    return {**row, "answer": example.reference}
