"""Who updates what: every rank owns a share of the parameters, their gradients' sum and their moments (ZeRO-2).

Rajbhandari et al. 2020, arXiv 1910.02054. A matrix has one owner, since Muon needs it whole; a table is cut by rows,
since AdamW does not care. The shares lie behind one another in a flat buffer of equal parts, so that one
reduce-scatter brings every owner its gradients and one all-gather brings every rank the new weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from aquarat_core.optim.groups import Group
from aquarat_core.runtime.distributed import World


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `start` to `stop` of one parameter."""

    name: str
    group: Group
    param: Tensor
    start: int
    stop: int

    @property
    def numel(self) -> int:
        return self.param[self.start : self.stop].numel()

    def of(self, whole: Tensor) -> Tensor:
        """Its rows of a tensor that is shaped like the parameter."""
        return whole[self.start : self.stop]


def plan(groups: Sequence[Group], ranks: int) -> list[list[Piece]]:
    """The pieces of each rank, in the order of the groups; the largest go first, each to who has least."""
    pieces = []
    for group in groups:
        for name, param in group.params:
            cuts = 1 if group.muon else min(ranks, len(param))
            edges = [len(param) * i // cuts for i in range(cuts + 1)]
            pieces += [Piece(name, group, param, a, b) for a, b in pairwise(edges)]
    shares: list[list[Piece]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for piece in sorted(pieces, key=lambda p: (-p.numel, p.name, p.start)):
        rank = load.index(min(load))
        load[rank] += piece.numel
        shares[rank].append(piece)
    order = {id(piece): i for i, piece in enumerate(pieces)}
    return [sorted(share, key=lambda piece: order[id(piece)]) for share in shares]


class Exchange:
    """Brings gradients to their owners and weights back; with one rank there is nothing to move."""

    def __init__(self, shares: list[list[Piece]], world: World) -> None:
        self.world, self.mine = world, shares[world.rank]
        self._names = [piece.name for share in shares for piece in share]
        before = sum(len(share) for share in shares[: world.rank])
        self.places = range(before, before + len(self.mine))
        """Of this rank's pieces among those of all ranks."""
        if world.size == 1:
            return
        capacity = max(sum(piece.numel for piece in share) for share in shares)
        self._flat = torch.zeros(world.size * capacity, device=world.device)
        self._own = torch.zeros(capacity, device=world.device)
        self._all = [
            (piece, view)
            for rank, share in enumerate(shares)
            for piece, view in _views(share, self._flat[rank * capacity : (rank + 1) * capacity])
        ]
        self._own_views = [view for _, view in _views(self.mine, self._own)]
        summed = self._flat[world.rank * capacity : (world.rank + 1) * capacity]
        self._summed_views = [view for _, view in _views(self.mine, summed)]

    @property
    def n_pieces(self) -> int:
        """Of all ranks."""
        return len(self._names)

    def moving(self, lengths: Sequence[float]) -> set[str]:
        """Names of the parameters with a gradient that is not zero in any rank's piece; a length for each piece."""
        return {name for name, length in zip(self._names, lengths, strict=True) if length}

    def gradients(self) -> list[Tensor]:
        """Summed over all ranks, those of this rank's pieces; every `grad` is there, and is free to be dropped."""
        if self.world.size == 1:
            return [piece.of(piece.param.grad) for piece in self.mine]
        torch._foreach_copy_([view for _, view in self._all], [piece.of(piece.param.grad) for piece, _ in self._all])
        if self.world.device.type == "cpu":  # gloo's reduce-scatter takes half as long again as its all-reduce
            dist.all_reduce(self._flat)
            return self._summed_views
        dist.reduce_scatter_tensor(self._own, self._flat)
        return self._own_views

    def spread_weights(self) -> None:
        """Give every rank the weights of every owner."""
        if self.world.size == 1:
            return
        torch._foreach_copy_(self._own_views, [piece.of(piece.param.data) for piece in self.mine])
        dist.all_gather_into_tensor(self._flat, self._own)
        torch._foreach_copy_([piece.of(piece.param.data) for piece, _ in self._all], [view for _, view in self._all])


def _views(share: list[Piece], flat: Tensor) -> list[tuple[Piece, Tensor]]:
    parts = flat[: sum(piece.numel for piece in share)].split([piece.numel for piece in share])
    return [(piece, part.view_as(piece.of(piece.param))) for piece, part in zip(share, parts, strict=True)]
