"""Divides the optimizer among ranks: each owns a share of the parameters, their summed gradients and moments (ZeRO-2).

Rajbhandari et al. 2020, arXiv 1910.02054. A matrix has one owner, because Muon needs the whole matrix; a table is
divided by rows, which AdamW allows. The shares are consecutive in a flat buffer of equal parts, so that one
reduce-scatter brings every owner its gradients and one all-gather brings every rank the new weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from aquarat_core.optim.groups import ParamGroup
from aquarat_core.runtime.distributed import World


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

    @property
    def grad(self) -> Tensor:
        """The shard's rows of the parameter's gradient, which must exist."""
        assert self.param.grad is not None, f"{self.name} has no gradient"
        return self.of(self.param.grad)

    def of(self, whole: Tensor) -> Tensor:
        """The shard's rows of a tensor with the parameter's shape."""
        return whole[self.start : self.stop]


def partition(groups: Sequence[ParamGroup], ranks: int) -> list[list[ParamShard]]:
    """The shards of each rank, in the order of the groups; the largest are assigned first, to the least loaded rank."""
    shards: list[ParamShard] = []
    for group in groups:
        for name, param in group.params:
            cuts = 1 if group.muon else min(ranks, len(param))
            edges = [len(param) * i // cuts for i in range(cuts + 1)]
            shards += [ParamShard(name, group, param, a, b) for a, b in pairwise(edges)]
    shares: list[list[ParamShard]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for shard in sorted(shards, key=lambda p: (-p.numel, p.name, p.start)):
        rank = load.index(min(load))
        load[rank] += shard.numel
        shares[rank].append(shard)
    order = {id(shard): i for i, shard in enumerate(shards)}
    return [sorted(share, key=lambda shard: order[id(shard)]) for share in shares]


class Zero2:
    """Brings gradients to their owners and weights back; does nothing with one rank."""

    def __init__(self, shares: list[list[ParamShard]], world: World) -> None:
        self.world, self.mine = world, shares[world.rank]
        self._names = [shard.name for share in shares for shard in share]
        before = sum(len(share) for share in shares[: world.rank])
        self.indices = range(before, before + len(self.mine))
        """Positions of this rank's shards among those of all ranks."""
        if world.size == 1:
            return
        capacity = max(sum(shard.numel for shard in share) for share in shares)
        self._flat = torch.zeros(world.size * capacity, device=world.device)
        self._own = torch.zeros(capacity, device=world.device)
        self._all = [
            (shard, view)
            for rank, share in enumerate(shares)
            for shard, view in _views(share, self._flat[rank * capacity : (rank + 1) * capacity])
        ]
        self._own_views = [view for _, view in _views(self.mine, self._own)]
        summed = self._flat[world.rank * capacity : (world.rank + 1) * capacity]
        self._summed_views = [view for _, view in _views(self.mine, summed)]

    @property
    def n_shards(self) -> int:
        """Number of shards of all ranks."""
        return len(self._names)

    def moving(self, lengths: Sequence[float]) -> set[str]:
        """Names of the parameters with a nonzero gradient in any rank's shard; `lengths` has one norm per shard."""
        return {name for name, length in zip(self._names, lengths, strict=True) if length}

    def gradients(self) -> list[Tensor]:
        """Gradients of this rank's shards, summed over all ranks.

        Every parameter must have a `grad`, which may be dropped afterwards.
        """
        if self.world.size == 1:
            return [shard.grad for shard in self.mine]
        _copy([view for _, view in self._all], [shard.grad for shard, _ in self._all])
        if self.world.device.type == "cpu":  # gloo's reduce-scatter is slower than its all-reduce by half
            dist.all_reduce(self._flat)
            return self._summed_views
        dist.reduce_scatter_tensor(self._own, self._flat)
        return self._own_views

    def all_gather_weights(self) -> None:
        """Send every owner's weights to all ranks."""
        if self.world.size == 1:
            return
        _copy(self._own_views, [shard.of(shard.param.data) for shard in self.mine])
        dist.all_gather_into_tensor(self._flat, self._own)
        _copy([shard.of(shard.param.data) for shard, _ in self._all], [view for _, view in self._all])


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copies each source into its target, all in one call."""
    # torch has no public function for this.
    torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def _views(share: list[ParamShard], flat: Tensor) -> list[tuple[ParamShard, Tensor]]:
    sizes = [shard.numel for shard in share]
    parts = torch.split(flat[: sum(sizes)], sizes)
    return [(shard, part.view_as(shard.of(shard.param))) for shard, part in zip(share, parts, strict=True)]
