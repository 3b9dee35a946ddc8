"""`aquarat export`: questions, conversations and documents of a data set as JSONL files, for other tools."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from string import ascii_uppercase
from tempfile import TemporaryDirectory
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
        description="Each line is a JSON object with `id` and `messages` ([{role, content}], plus `parts` if the "
        "assistant calls the calculator). Questions with options also have `letters` and `answer_letter`, other "
        "questions have `answer`. A document has `id` and `text`. The files get their names when all of them are "
        "complete.",
    )
    add_artifact(command)
    command.add_argument("--format", choices=("jsonl",), default="jsonl", help="format of the files (%(default)s)")
    command.add_argument("--out", type=Path, help="folder for the files (default: one with the asset's name)")
    command.add_argument("--only", metavar="NAME", help="for chat_datasets: only this source")
    add_store(command)
    add_json(command)
    command.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> str:
    artifact = ArtifactStore.open(arguments.store).resolve(arguments.artifact)
    files = _files(artifact, arguments.only)
    folder = arguments.out or Path(artifact.asset)
    try:
        written = _export_files(artifact, files, folder)
    except OSError as e:
        # The input was verified before, so the error must come from the output folder.
        raise UsageError(
            f"{folder} cannot be written: {e.strerror or e}. No file there was changed: choose another with --out"
        ) from None
    text = "\n".join(f"{path}: {n:,} rows" for path, n in written.items())
    return answer(arguments, {"manifest_sha256": artifact.sha256, "files": written}, text)


def _files(artifact: Artifact, only: str | None) -> list[str]:
    """The files to export. Raises `UsageError` if there are none."""
    from aquarat_core.tasks.registry import DATASETS, OTHER_DATASET

    known = (*DATASETS, OTHER_DATASET)
    if artifact.asset not in known:
        raise UsageError(f"{artifact.asset} has no questions or conversations: {' and '.join(known)} have some")
    files = [f.path for f in artifact.manifest.files if f.path.endswith(ENDING)]
    found = files if only is None else [name for name in files if name.startswith(f"{only}.")]
    if not found:
        sources = sorted({name.partition(".")[0] for name in files})
        raise UsageError(f"{artifact.asset} has nothing of {only!r}: it has {', '.join(sources)}")
    return found


def _export_files(artifact: Artifact, files: Sequence[str], folder: Path) -> dict[str, int]:
    """Writes the files, and gives them their names when all are complete. Returns the number of rows of each."""
    paths = {name: artifact.path(name) for name in files}
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    with TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
        names = [f"{Path(name).stem}.jsonl" for name in paths]
        counts = [_write(Path(unfinished, n), _rows(artifact, file)) for n, file in zip(names, paths, strict=True)]
        for name, count in zip(names, counts, strict=True):
            Path(unfinished, name).replace(folder / name)
            written[str(folder / name)] = count
    return written


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Writes the rows one by one. Returns their number."""
    n = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            n += 1
    return n


def _rows(artifact: Artifact, file: str) -> Iterator[dict[str, Any]]:
    from aquarat_core.data.conversations import iterate_conversations
    from aquarat_core.data.mixed_documents import DocumentFile, holds_documents
    from aquarat_core.tasks.example_files import holds_examples, read_examples
    from aquarat_core.tasks.registry import DATASETS, load_task

    if artifact.asset in DATASETS:
        split = file.removesuffix(ENDING)
        yield from map(_question, load_task(DATASETS[artifact.asset]).iterate(artifact.path, split))
    elif holds_examples(path := artifact.path(file)):
        yield from map(_question, read_examples(path))
    elif holds_documents(path):
        yield from map(asdict, DocumentFile(path).documents())
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
