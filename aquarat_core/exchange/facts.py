"""`release.json`: what a release is made from, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from aquarat_core.artifacts.bounded import MAX_BYTES, parse_as
from aquarat_core.artifacts.manifest import Name, Sha256, Text
from aquarat_core.errors import DataError, UserError

FACTS = "release.json"
FORMAT = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Publication(_Record):
    """One artifact of a lineage."""

    asset: Name
    manifest_sha256: Sha256
    data_version: Sha256
    run_id: Text


class ReleaseFacts(_Record):
    """The content of `release.json`."""

    format: Literal[1] = FORMAT
    checkpoint: Publication
    root: Publication
    """The first checkpoint of the lineage: releases with the same one belong to one family."""
    lineage: tuple[Publication, ...]
    """The checkpoint and all its ancestors, parents first."""
    questions_sha256: Sha256 | None
    """Hash of the questions of the main evaluation; None without one."""
    remote_code: bool
    form: Text


def read_facts(path: Path) -> ReleaseFacts:
    """The facts in a file. Raises `DataError` if it cannot be read, and `RecordError` for other content."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror}") from None
    return parse_as(ReleaseFacts, data, str(path), "Release the checkpoint again, which writes it.")


def write_facts(path: Path, facts: ReleaseFacts) -> None:
    """Writes them as JSON; equal facts give equal bytes."""
    path.write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")


def facts_in(folder: Path) -> ReleaseFacts | None:
    """The facts in a folder's `release.json`; None if it has none, or they cannot be read."""
    try:
        return read_facts(folder / FACTS)
    except UserError:
        return None
