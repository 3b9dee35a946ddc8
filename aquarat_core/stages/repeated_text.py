"""Which documents of pretraining text repeat an earlier one, from the signatures of the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aquarat_core.artifacts.transfer import parallel_map
from aquarat_core.data.minhash import Hashes
from aquarat_core.data.repeats import Places, first_equal
from aquarat_core.sharding.spec import Stored
from aquarat_core.stages.base import StageContext
from aquarat_core.stages.own_text import Shard
from aquarat_core.stages.sharded import Made, made_shards, shard_spec
from aquarat_core.stages.signature_shard import BAND_FILES, DIGESTS

SIGN = "aquarat_core.stages.signature_shard:sign"
READERS = 32
"""Files of signatures that are read at a time."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """The documents of some shards, by place in the row of all of them, and what they repeat."""

    files: Sequence[str]
    ends: Places
    """For each file the place after its last document."""
    earliest: Places
    """For each document the place of the first one that it repeats, or its own."""
    exact: npt.NDArray[np.bool_]
    """Whether it is equal to an earlier one."""

    def of(self, file: str) -> tuple[Places, Places]:
        """The numbers of a file's documents that are equal to an earlier one, and of those that only resemble one."""
        if file not in self.files:
            return np.array([], np.int64), np.array([], np.int64)
        begin, end = self._bounds(file)
        repeated = self.earliest[begin:end] < np.arange(begin, end)
        exact = self.exact[begin:end]
        return np.flatnonzero(exact), np.flatnonzero(repeated & ~exact)

    def first(self, file: str, number: int) -> tuple[str, int]:
        """File and number of the document that a document repeats."""
        place = int(self.earliest[self._bounds(file)[0] + number])
        index = int(np.searchsorted(self.ends, place, side="right"))
        return self.files[index], place - self._bounds(self.files[index])[0]

    def _bounds(self, file: str) -> tuple[int, int]:
        index = self.files.index(file)
        return int(self.ends[index - 1]) if index else 0, int(self.ends[index])


def repeats_in(ctx: StageContext, shards: Sequence[Shard], text: Mapping[str, Stored]) -> Repeats:
    """The documents of `shards` that repeat an earlier one, under `duplicates` of the config.

    Memory is about 55 bytes for each document, whatever its length: one band of all documents is looked at at a time.
    """
    near = ctx.config.duplicates == "near"
    specs = [
        shard_spec(
            f"signatures of {shard.file}",
            SIGN,
            shard.text_bytes,
            settings={"near": near},
            inputs={"text": text[shard.file]},
        )
        for shard in shards
    ]
    made = list(made_shards(ctx, specs))
    ends: Places = np.cumsum(np.array([one.number("documents") for one in made], np.int64))
    earliest = first_equal(_columns(made, DIGESTS, ends))
    exact = earliest < np.arange(len(earliest))
    for band in BAND_FILES if near else ():
        np.minimum(earliest, first_equal(_columns(made, band, ends)), out=earliest)
    return Repeats([shard.file for shard in shards], ends, earliest, exact)


def _columns(made: Sequence[Made], file: str, ends: Places) -> list[Hashes]:
    """The hashes in a file of every shard, put together: two columns of the digests, one of a band."""
    columns = [np.empty(ends[-1], np.uint64) for _ in range(2 if file == DIGESTS else 1)]
    begins = [0, *ends[:-1].tolist()]

    def put(number: int) -> None:
        values = np.frombuffer(made[number].read(file), "<u8")
        for k, column in enumerate(columns):
            column[begins[number] : ends[number]] = values[k :: len(columns)]

    parallel_map(put, range(len(made)), READERS)
    return columns
