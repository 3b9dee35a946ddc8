"""The separate process that reads a Parquet file that may crash it: see `data.foreign.read_foreign`.

    python -m aquarat_core.data.foreign_reader FILE OUT '[["column", ...] or null, LIMIT or null]'

It writes an Arrow stream and prints the outcome as JSON. Texts are written as bytes, because one text that is not UTF-8
would otherwise make validation reject the whole file; the real types are in the stream's metadata.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.data.parquet import read_batches
from aquarat_core.plain_text import first_line

TYPES = b"types"
"""Metadata key of the stream for the schema with the real types."""


def read(source: Path, out: Path, columns: Sequence[str] | None, limit: int | None) -> dict[str, Any]:
    """Write the columns (None: all). Returns a description of what is wrong with the file, empty if nothing is."""
    try:
        # The stubs do not declare the type of its IO argument.
        schema = pq.read_schema(source, memory_map=False)  # pyright: ignore[reportUnknownMemberType]
        columns = schema.names if columns is None else columns
        if missing := [column for column in columns if column not in schema.names]:
            return {"missing": missing, "there": schema.names}
        if twice := [column for column in columns if schema.names.count(column) > 1]:
            return {"unreadable": f"it has more than one column {twice[0]}"}
        _write(source, schema, out, columns, limit)
    except (pa.ArrowException, OSError, ValueError) as e:
        return {"unreadable": first_line(e)}
    return {}


def _write(source: Path, schema: pa.Schema, out: Path, columns: Sequence[str], limit: int | None) -> None:
    kinds = dict(zip(schema.names, schema.types, strict=True))
    plain = {name: _plain(kinds[name]) for name in columns}
    held = {name: _as_bytes(kind) for name, kind in plain.items()}
    types = pa.schema(list(plain.items())).serialize().to_pybytes()
    as_bytes = pa.schema(list(held.items()), {TYPES: types})
    left = limit
    with pa.OSFile(str(out), "wb") as file, pa.ipc.new_stream(file, as_bytes) as writer:
        for batch in read_batches(source, columns):
            batch = batch if left is None else batch.slice(0, left)
            arrays = [batch.column(name).cast(kind).cast(held[name]) for name, kind in plain.items()]
            # The stubs do not declare its return type.
            writer.write_batch(  # pyright: ignore[reportUnknownMemberType]
                pa.record_batch(arrays, schema=as_bytes)
            )
            left = None if left is None else left - len(batch)
            if left == 0:
                return


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the same values without dictionaries and views."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return _rebuilt(kind, _plain, {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()})


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with texts replaced by bytes."""
    return _rebuilt(kind, _as_bytes, {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()})


def _rebuilt(kind: pa.DataType, inner: Any, leaves: dict[pa.DataType, pa.DataType]) -> pa.DataType:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(inner(kind.value_type)))
    if pa.types.is_struct(kind):
        fields: list[pa.Field[Any]] = list(kind)
        return pa.struct([field.with_type(inner(field.type)) for field in fields])
    return leaves.get(kind, kind)


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]), Path(sys.argv[2]), *json.loads(sys.argv[3]))))
