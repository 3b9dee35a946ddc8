"""Which characters of a corpus a tokenizer is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc

Texts: TypeAlias = "Iterable[str | pa.Array[Any]]"
"""Strings, or Arrow arrays of strings, which are not converted to Python strings."""


class Budget:
    """The first characters of some texts: at most `max_chars` in all (None for no limit), `per_document` of each."""

    def __init__(self, max_chars: int | None, per_document: int) -> None:
        self.left = max_chars
        self.done = 0
        self._per_document = per_document

    def take(self, texts: Texts) -> Iterator[str | pa.Array[Any]]:
        """The used part of the texts; an array is split if the budget ends within it."""
        for item in texts:
            if self.left == 0:
                return
            alone: list[str] = []
            if isinstance(item, pa.Array):
                # Arrays of other types of strings work too, but the stubs name only some of them.
                column = pc.utf8_slice_codeunits(cast("pa.StringArray", item.drop_null()), 0, self._per_document)
                chars: int = pc.sum(pc.utf8_length(column), min_count=0).as_py() or 0
                if self.left is None or chars < self.left:
                    self._spend(chars)
                    yield column
                else:
                    alone = cast("list[str]", column.to_pylist())  # without nulls
            else:
                alone = [item]
            for text in alone:
                counted = text[: self._per_document if self.left is None else min(self._per_document, self.left)]
                self._spend(len(counted))
                yield counted
                if self.left == 0:
                    return

    def _spend(self, chars: int) -> None:
        self.done += chars
        if self.left is not None:
            self.left -= chars


def quotas(sizes: Sequence[int], budget: int) -> list[int | None]:
    """How many characters to use of each part of a corpus, given upper bounds of their sizes; None for all of it.

    Every part gets the same share of `budget`; what small parts leave of theirs is shared by the others.
    """
    found: list[int | None] = [None] * len(sizes)
    smallest_first = sorted(range(len(sizes)), key=sizes.__getitem__)
    for rank, number in enumerate(smallest_first):
        share = budget // (len(sizes) - rank)
        if sizes[number] > share:
            for other in smallest_first[rank:]:
                found[other] = share
            break
        budget -= sizes[number]
    return found
