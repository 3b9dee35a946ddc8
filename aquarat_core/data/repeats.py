"""Which documents of a corpus repeat an earlier one, from their signatures alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aquarat_core.data.minhash import Hashes

Places = npt.NDArray[np.int64]


def first_equal(columns: Sequence[Hashes]) -> Places:
    """For each place the first one with the same values in all columns, which is the place itself if there is none
    before it."""
    n = len(columns[0])
    order = np.lexsort(tuple(columns)) if len(columns) > 1 else np.argsort(columns[0], kind="stable")
    begins = np.ones(n, np.bool_)
    if n:
        begins[1:] = False
    for column in columns:
        ordered = column[order]
        begins[1:] |= ordered[1:] != ordered[:-1]
        del ordered
    leads = np.arange(n)
    leads[~begins] = 0
    np.maximum.accumulate(leads, out=leads)
    # Both sorts are stable: the first of equal ones has the lowest place.
    leads = order[leads]
    first = np.empty(n, np.int64)
    first[order] = leads
    return first
