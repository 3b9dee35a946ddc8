"""Text in columns."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from aquarat_core.plain_text import one_line

GAP = "  "
MIN_LAST = 10
"""Characters that the last column keeps on a terminal that is too narrow for the others."""


def table(rows: Sequence[tuple[str, ...]], *, right: Sequence[int] = (), widest: int | None = None) -> str:
    """Rows of equally many cells as text in aligned columns; a line break within a cell is shown as `\\n`.

    The columns with the numbers `right` are aligned to the right. On a terminal, cells of the last column are cut where
    the line would not fit; elsewhere nothing is cut. No column is made wider than `widest` characters: on a terminal
    longer cells are cut, elsewhere they move the rest of their line.
    """
    rows = [tuple(map(one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if widest is not None:
        widths = [*(min(width, widest) for width in widths[:-1]), widths[-1]]
        if terminal_columns():
            rows = [(*map(cut, row[:-1], widths), row[-1]) for row in rows]
    if (columns := terminal_columns()) and len(widths) > 1:
        room = max(MIN_LAST, columns - sum(widths[:-1]) - len(GAP) * (len(widths) - 1))
        rows = [(*row[:-1], cut(row[-1], room)) for row in rows]
        widths[-1] = min(widths[-1], room)

    def aligned(row: tuple[str, ...]) -> str:
        cells = zip(row, widths, strict=True)
        return GAP.join(f"{cell:>{w}}" if n in right else f"{cell:<{w}}" for n, (cell, w) in enumerate(cells)).rstrip()

    return "\n".join(map(aligned, rows))


def terminal_columns() -> int | None:
    """The width of the terminal that shows the output; None if it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def cut(text: str, room: int) -> str:
    """At most `room` characters of a text, with a sign for what is left out."""
    return text if len(text) <= room else f"{text[: room - 1]}…"


def short_size(n_bytes: int) -> str:
    """A number of bytes in at most seven characters, with decimal units: `1.2 MB`."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"
