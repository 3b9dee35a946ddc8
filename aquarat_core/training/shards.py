"""Divides the optimizer among ranks: each owns a share of the parameters, their summed gradients and moments (ZeRO-2).

Rajbhandari et al. 2020, arXiv 1910.02054. A matrix has one owner, because Muon needs the whole matrix; a table is
divided by rows, which AdamW allows. Shards are exchanged in buckets: parameters whose gradients are ready at about the
same time of the backward pass, divided so that every rank owns about the same number of a bucket's values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from torch import Tensor

from aquarat_core.optim.groups import ParamGroup

MAX_PADDING = 0.125
"""Share of a bucket's buffer that may be unused because ranks own unequal parts; a bucket grows until it is less."""
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class ParamShard:
    """Rows `start` to `stop` of one parameter."""

    name: str
    group: ParamGroup
    param: Tensor
    start: int
    stop: int

    @property
    def numel(self) -> int:
        return self.param[self.start : self.stop].numel()

    def of(self, whole: Tensor) -> Tensor:
        """The shard's rows of a tensor with the parameter's shape."""
        return whole[self.start : self.stop]


Bucket: TypeAlias = list[list[ParamShard]]
"""The shards of a bucket that each rank owns."""


def plan(groups: Sequence[ParamGroup], ranks: int, bucket_bytes: float) -> list[Bucket]:
    """All shards in buckets of at least `bucket_bytes`, in the order in which the backward pass completes gradients.

    The last bucket has the parameters that the model uses in float32: except for an embedding with taps, they are
    scales and gates, small and needed in every layer.
    """
    large = [(name, param, group) for group in groups if group.cast for name, param in group.params]
    small = [(name, param, group) for group in groups if not group.cast for name, param in group.params]
    buckets: list[Bucket] = []
    load = [0] * ranks

    def close(shards: list[ParamShard]) -> None:
        buckets.append(_divide(shards, load))
        for rank, share in enumerate(buckets[-1]):
            load[rank] += numel(share)

    pending: list[ParamShard] = []
    for name, param, group in sorted(large, key=lambda item: _readiness(item[0])):
        pending += _cut(name, param, group, ranks)
        if FLOAT_BYTES * numel(pending) >= bucket_bytes and padding(_divide(pending, load)) <= MAX_PADDING:
            close(pending)
            pending = []
    for rest in (pending, [shard for item in small for shard in _cut(*item, ranks)]):
        if rest:
            close(rest)
    return buckets


def numel(shards: Sequence[ParamShard]) -> int:
    """Number of values of all `shards`."""
    return sum(shard.numel for shard in shards)


def capacity(bucket: Bucket) -> int:
    """Number of values in the part of a bucket's buffer that each rank has: as many as the largest rank's shards."""
    return max(numel(share) for share in bucket)


def padding(bucket: Bucket) -> float:
    """Unused share of the bucket's buffer."""
    return 1 - sum(numel(share) for share in bucket) / (capacity(bucket) * len(bucket))


def is_cast(bucket: Bucket) -> bool:
    """Whether the model only uses the bucket's weights after a cast to the compute type."""
    return any(shard.group.cast for share in bucket for shard in share)


def bytes_across(
    buckets: Sequence[Bucket], hosts: int, per_host: int, *, two_level: bool = False, gather_bytes: int = FLOAT_BYTES
) -> int:
    """Bytes of gradients and weights that each host sends to other hosts in a step on CPUs, without headers.

    With C values in a bucket's part and N = hosts x per_host ranks, one level sends C per_host (N - per_host) gradients
    from ranks of this host to others, and C (N - 1) weights over the one link of the ring of ranks that leaves the
    host. Two levels send C per_host (hosts - 1) of each. Weights of `gather_bytes` are only those that are cast.
    """
    ranks, sent = hosts * per_host, 0
    for bucket in buckets:
        of_weight = gather_bytes if is_cast(bucket) else FLOAT_BYTES
        if two_level:
            sent += capacity(bucket) * per_host * (hosts - 1) * (FLOAT_BYTES + of_weight)
        else:
            sent += capacity(bucket) * (per_host * (ranks - per_host) * FLOAT_BYTES + (ranks - 1) * of_weight)
    return sent


def _cut(name: str, param: Tensor, group: ParamGroup, ranks: int) -> list[ParamShard]:
    cuts = 1 if group.muon else min(ranks, len(param))
    edges = [len(param) * i // cuts for i in range(cuts + 1)]
    return [ParamShard(name, group, param, a, b) for a, b in pairwise(edges)]


def _divide(shards: Sequence[ParamShard], load: Sequence[int]) -> Bucket:
    """The largest shards are assigned first, to the rank that owns least of this bucket and then of those before it."""
    shares: Bucket = [[] for _ in load]
    here = [0] * len(load)
    for shard in sorted(shards, key=lambda shard: (-shard.numel, shard.name, shard.start)):
        rank = min(range(len(load)), key=lambda rank: (here[rank], load[rank] + here[rank]))
        here[rank] += shard.numel
        shares[rank].append(shard)
    return shares


def _readiness(name: str) -> float:
    """Parameters by the time at which the backward pass has their gradients: the head, the blocks from the last to the
    first, each with its value embedding, and the embedding."""
    kind, _, rest = name.partition(".")
    if kind in ("blocks", "value_embeddings"):
        return -int(rest.partition(".")[0])
    return 1 if kind == "embedding" else -math.inf
