"""Text in columns."""

from __future__ import annotations

from collections.abc import Sequence

from aquarat_core.plain_text import one_line


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of equally many cells as text in aligned columns; a line break within a cell is shown as `\\n`."""
    rows = [tuple(map(one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
