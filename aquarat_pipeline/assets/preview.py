"""What a data set looks like: its number of rows, its columns, a few rows, its source and license."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg

from aquarat_core.artifacts import Artifact
from aquarat_core.errors import UserError
from aquarat_core.plain_text import one_line

ROWS = 5
_MAX_FILE = 64_000_000
"""Bytes of the largest file from which rows are shown: on a bucket, it has to be downloaded first."""
_MAX_CELL = 160
_MAX_COLUMNS = 8
_ROW_COUNTS = re.compile(r"rows_(train|validation|test)|(train|validation)_documents|.+_(train|validation|test)")


def preview(artifact: Artifact) -> dict[str, Any]:
    """Metadata of a data set, with the keys that Dagster's UI knows; empty for other artifacts."""
    if artifact.manifest.kind != "dataset":
        return {}
    rows = row_count(artifact.manifest.metrics)
    return {
        **({"dagster/row_count": rows} if rows is not None else {}),
        **_sources(artifact),
        **_rows(artifact),
    }


def row_count(metrics: Mapping[str, Any]) -> int | None:
    """The rows of all splits together, as the stage counted them."""
    counts = [
        value
        for name, value in metrics.items()
        if isinstance(value, int) and not name.startswith("bytes_") and _ROW_COUNTS.fullmatch(name)
    ]
    return sum(counts) if counts else None


def _sources(artifact: Artifact) -> dict[str, Any]:
    # Few of Dagster's processes describe an artifact.
    from aquarat_core.exchange.provenance import data_sources

    lines = [
        f"{source.name} ({source.license})" if source.revision else source.name for source in data_sources([artifact])
    ]
    return {"source and license": ", ".join(dict.fromkeys(lines))} if lines else {}


def _rows(artifact: Artifact) -> dict[str, Any]:
    """The columns and first rows of the smallest file of each part of the data set."""
    files = [e for e in artifact.manifest.files if e.path.endswith(".parquet") and 0 < e.size <= _MAX_FILE]
    smallest = {e.path.partition(".")[0]: e.path for e in sorted(files, key=lambda e: -e.size)}
    if artifact.asset != "chat_datasets":
        smallest = dict(list(smallest.items())[-1:])
    found: dict[str, Any] = {}
    texts: list[str] = []
    for path in list(smallest.values())[:ROWS]:
        try:
            schema, rows = _first_rows(artifact, path, max(2, ROWS // len(smallest)))
        except UserError:
            continue  # the check of the artifact reports a damaged file
        found.setdefault("dagster/column_schema", schema)
        texts.append(f"**{path}**\n\n{markdown_table(rows)}")
    return found | ({"first rows": dg.MetadataValue.md("\n\n".join(texts))} if texts else {})


def _first_rows(artifact: Artifact, path: str, count: int) -> tuple[dg.TableSchema, list[dict[str, Any]]]:
    from aquarat_core.data.foreign import read_foreign

    # A host wrote the file, and Arrow may abort on a damaged one: a process of its own reads it.
    table = read_foreign(artifact.path(path), None, count)
    kinds = zip(table.schema.names, map(str, table.schema.types), strict=True)
    columns = [dg.TableColumn(name, re.sub(r"\s+", " ", kind)) for name, kind in kinds]
    return dg.TableSchema(columns=columns), table.to_pylist()


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table in which no cell can be anything but text."""
    names = list(dict.fromkeys(name for row in rows for name in row))[:_MAX_COLUMNS]
    lines = [names, ["---"] * len(names), *([_cell(row.get(name)) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = one_line(value if isinstance(value, str) else str(value))
    text = text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", text)
