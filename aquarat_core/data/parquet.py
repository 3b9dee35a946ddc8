"""Reading the Parquet files of artifacts: a damaged one is an error that names it, whatever the library makes of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.data.errors import DataError


def read_table(path: str | Path, schema: pa.Schema, what: str) -> pa.Table:
    """The columns of `schema`, in its types.

    Raises `DataError` for a file that is damaged or no table of `what`.
    """
    try:
        table = pq.read_table(path, memory_map=False, use_threads=False)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as e:
        said = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise DataError(f"{path} is damaged, or no Parquet file ({said}): materialize its asset again") from None
    if missing := set(schema.names) - set(table.schema.names):
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}: it is not a table of {what}")
    try:
        cast = table.select(schema.names).cast(schema)
        cast.validate(full=True)
    except (pa.ArrowException, ValueError) as e:
        raise DataError(f"{path} does not hold a table of {what} ({str(e).splitlines()[0]})") from None
    return cast
