"""The exchange between ranks: gradients go to their owners during the backward pass, updated weights to all ranks.

A bucket's gradients are sent as soon as the backward pass has computed all of them (Li et al. 2020, "PyTorch
Distributed", arXiv 2006.15704), so the network works while the pass continues. Buckets start in the same order on every
rank. On CPUs, owners add up what they receive in the order of ranks, so that sums have the same bits however gradients
are divided into buckets; NCCL has its own order, which is fixed too.

Ranks that share a host's CPUs read each other's gradients and weights in shared memory, and send only short messages,
from which they learn that all have written. Over loopback, the same bytes took about 7 % of a step's processor time.

The exchange may have two levels: a host's ranks first add up their gradients, each rank a piece of them, and then the
ranks of all hosts that have the same piece do. Weights go the opposite way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from aquarat_core.optim.groups import ParamGroup
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.shared_memory import share_on_host
from aquarat_core.training.shards import Bucket, ParamShard, capacity, is_cast, numel, plan
from aquarat_core.training.transfers import Transfer, Transfers

Level: TypeAlias = tuple["dist.ProcessGroup | None", int]
"""A process group, None for all ranks, and its size."""


class GradientExchange:
    """Sends gradients to their owners and weights back; sends nothing with one rank.

    Call `last_pass` before the backward pass that completes a step's gradients, and `send_rest` after it, on all ranks
    between the same collective operations. Gradients that were sent are dropped. Without these calls, `gradients` sends
    everything.
    """

    def __init__(self, groups: Sequence[ParamGroup], world: World) -> None:
        self.world, self.dtype = world, world.exchange.gather_dtype
        self.buckets = plan(groups, world.size, world.exchange.bucket_bytes)
        shares = [_in_order_of_groups(groups, self.buckets, rank) for rank in range(world.size)]
        self.mine = shares[world.rank]
        """This rank's shards, in the order of the groups."""
        self._names = [shard.name for share in shares for shard in share]
        before = sum(len(share) for share in shares[: world.rank])
        self.indices = range(before, before + len(self.mine))
        """Positions of this rank's shards among those of all ranks."""
        self.weights: list[Tensor] = [shard.of(shard.param.data) for shard in self.mine]
        """The float32 weights of this rank's shards, which the optimizer updates."""
        if self.rounds:
            self.weights = [weight.clone() for weight in self.weights]
            for param in (param for group in groups if group.cast for _, param in group.params):
                param.data.copy_(param.data.to(self.dtype))
        self._levels = _levels(world)
        self._buffers = [_Buffers(bucket, world, self._levels) for bucket in self.buckets if world.size > 1]
        self.shares_memory = bool(self._buffers) and self._buffers[0].everyones is not None
        """Whether ranks read each other's buffers in shared memory instead of sending messages."""
        self.sent = 0
        """Number of buckets whose gradients were sent in this step."""
        self._in_last_pass = False
        self._transfers = Transfers()
        self._stream = torch.cuda.Stream(world.device) if world.device.type == "cuda" and world.size > 1 else None
        for param in (param for bucket in self._buffers for param in bucket.params):
            # The hook's type is not declared.
            param.register_post_accumulate_grad_hook(self._completed)  # pyright: ignore[reportUnknownMemberType]

    @property
    def rounds(self) -> bool:
        """Whether the model has rounded copies of the weights that owners update."""
        return self.dtype != torch.float32

    @property
    def n_shards(self) -> int:
        """Number of shards of all ranks."""
        return len(self._names)

    def moving(self, lengths: Sequence[float]) -> set[str]:
        """Names of the parameters with a nonzero gradient in any rank's shard; `lengths` has one norm per shard."""
        return {name for name, length in zip(self._names, lengths, strict=True) if length}

    def last_pass(self) -> None:
        """The next backward pass completes this step's gradients: send each bucket as soon as they are all there."""
        self._in_last_pass = True
        for bucket in self._buffers:
            bucket.missing = {id(param) for param in bucket.params}

    def send_rest(self) -> None:
        """Send the buckets that the backward pass did not complete, whatever their gradients are now."""
        self._in_last_pass = False
        for bucket in self._buffers[self.sent :]:
            self._send(bucket)

    def gradients(self) -> list[Tensor]:
        """Gradients of this rank's shards, summed over all ranks; a missing one counts as zero."""
        if self.world.size == 1:
            for shard in self.mine:
                if shard.param.grad is None:
                    shard.param.grad = torch.zeros_like(shard.param)
            return [shard.of(shard.param.grad) for shard in self.mine if shard.param.grad is not None]
        self.send_rest()
        self._finish()
        self.sent = 0
        summed = {(s.name, s.start): view for bucket in self._buffers for s, view in bucket.own_views(torch.float32)}
        return [summed[shard.name, shard.start] for shard in self.mine]

    @torch.no_grad()
    def gather_weights(self, dtype: torch.dtype | None = None) -> None:
        """Send every owner's weights to all ranks, by default in the type of the world's exchange."""
        dtype = dtype or self.dtype
        if self.world.size == 1:
            if self.rounds:
                _copy([s.of(s.param.data) for s in self.mine], [
                    weight.to(dtype) if shard.group.cast else weight
                    for shard, weight in zip(self.mine, self.weights, strict=True)
                ])  # fmt: skip
            return
        weights = {(shard.name, shard.start): weight for shard, weight in zip(self.mine, self.weights, strict=True)}
        for bucket in self._buffers:
            of_bucket = dtype if bucket.cast else torch.float32
            own = bucket.own_views(of_bucket)
            _copy([view for _, view in own], [weights[shard.name, shard.start] for shard, _ in own])
            self._start(self._gathered(bucket, of_bucket))
        self._finish()

    def _completed(self, param: Tensor) -> None:
        """Called when a backward pass has added all of its gradient of `param`."""
        if not self._in_last_pass:
            return
        for bucket in self._buffers[self.sent :]:
            bucket.missing.discard(id(param))
        while self.sent < len(self._buffers) and not self._buffers[self.sent].missing:
            self._send(self._buffers[self.sent])
        self._transfers.advance()

    @torch.no_grad()
    def _send(self, bucket: _Buffers) -> None:
        self.sent += 1
        bucket.take_gradients()
        self._start(self._summed(bucket))

    def _summed(self, bucket: _Buffers) -> Transfer:
        """Sums the bucket's gradients over all ranks into this rank's own part."""
        part = bucket.flat
        if bucket.everyones is not None:
            yield _all_have_written()
            first, *others = (flat[self.world.rank] for flat, _ in bucket.everyones)
            _add_up(bucket.parts[0], first, others)
            return
        for (group, size), summed in zip(self._levels, bucket.parts, strict=True):
            if self._stream is not None:
                yield dist.reduce_scatter_tensor(summed, part, group=group, async_op=True)
            else:
                # Gloo's own reduce-scatter is an all-reduce, which sends twice as much.
                received = torch.empty_like(part)
                yield dist.all_to_all_single(received, part, group=group, async_op=True)
                first, *others = received.view(size, -1)
                _add_up(summed, first, others)
            part = summed

    def _gathered(self, bucket: _Buffers, dtype: torch.dtype) -> Transfer:
        """Sends this rank's own part, as `dtype`, and copies all ranks' parts into the model."""
        if bucket.everyones is not None:
            yield _all_have_written()
            parts = [_as(part, dtype) for _, part in bucket.everyones]
            _copy_into_model(bucket.views(parts))
            return
        part, *wider = (_as(buffer, dtype) for buffer in (*reversed(bucket.parts), bucket.flat))
        for (group, _), whole in zip(reversed(self._levels), wider, strict=True):
            yield dist.all_gather_into_tensor(whole, part, group=group, async_op=True)
            part = whole
        _copy_into_model(bucket.all_views(dtype))

    def _start(self, transfer: Transfer) -> None:
        """On a GPU, put all of it on a side stream, where no message makes the host wait."""
        if self._stream is None:
            self._transfers.start(transfer)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.world.device))
        with torch.cuda.stream(self._stream):
            for work in transfer:
                assert work is not None
                work.wait()  # pyright: ignore[reportUnknownMemberType]  # its type is not declared

    def _finish(self) -> None:
        if self._stream is None:
            self._transfers.finish()
            if self.shares_memory:
                self.world.sum(torch.zeros(1))  # Until all ranks have read, none may write again.
        else:
            torch.cuda.current_stream(self.world.device).wait_stream(self._stream)


class _Buffers:
    """A bucket's memory: `flat` has an equally long part for each rank; `parts` are the sums after each level, the last
    one of this rank's own part.

    With two levels, the parts of the ranks with the same local rank are next to each other, because they make up the
    piece that a rank has between the levels.
    """

    def __init__(self, bucket: Bucket, world: World, levels: Sequence[Level]) -> None:
        self._size = capacity(bucket)
        per_host = world.size // levels[-1][1]  # 1 if there is one level
        self._shares = [share for local in range(per_host) for share in bucket[local::per_host]]
        self._own = bucket[world.rank]
        self.params = list({id(shard.param): shard.param for share in bucket for shard in share}.values())
        self.missing: set[int] = set()
        """Parameters, by identity, whose gradients the last backward pass has not completed."""
        self.cast = is_cast(bucket)
        whole = world.size * self._size
        memory = share_on_host(world, whole + self._size) if len(levels) == 1 else None
        self.everyones: list[tuple[Tensor, Tensor]] | None = None
        """In shared memory, every rank's `flat` [ranks, size] and own part [size]; None where ranks send messages."""
        self.parts: list[Tensor] = []
        if memory is not None:
            self.everyones = [(each[:whole].view(world.size, -1), each[whole:]) for each in memory]
            own = memory[world.rank]
            self.flat = own[:whole]
            self.parts.append(own[whole:])
            return
        self.flat = torch.zeros(whole, device=world.device)
        for _, ranks in levels:
            whole //= ranks
            self.parts.append(torch.zeros(whole, device=world.device))

    def all_views(self, dtype: torch.dtype) -> list[tuple[ParamShard, Tensor]]:
        """All ranks' shards with their views of `flat` as `dtype`."""
        return self.views(torch.split(_as(self.flat, dtype), self._size))

    def views(self, parts: Sequence[Tensor]) -> list[tuple[ParamShard, Tensor]]:
        """All ranks' shards with their views of the ranks' parts."""
        return [pair for share, part in zip(self._shares, parts, strict=True) for pair in _views(share, part)]

    def own_views(self, dtype: torch.dtype) -> list[tuple[ParamShard, Tensor]]:
        """This rank's shards with their views of its own part as `dtype`."""
        return _views(self._own, _as(self.parts[-1], dtype))

    def take_gradients(self) -> None:
        """Copy the gradients into `flat` and drop them."""
        views = self.all_views(torch.float32)
        there = [(view, shard.of(shard.param.grad)) for shard, view in views if shard.param.grad is not None]
        _copy([view for view, _ in there], [grad for _, grad in there])
        for shard, view in views:
            if shard.param.grad is None:
                view.zero_()
        for param in self.params:
            param.grad = None


def _levels(world: World) -> list[Level]:
    groups = world.exchange.groups
    return [(group, dist.get_world_size(group)) for group in groups] if groups else [(None, world.size)]


def _in_order_of_groups(groups: Sequence[ParamGroup], buckets: Sequence[Bucket], rank: int) -> list[ParamShard]:
    """The rank's shards of all buckets."""
    order = {name: i for i, name in enumerate(name for group in groups for name, _ in group.params)}
    shards = [shard for bucket in buckets for shard in bucket[rank]]
    return sorted(shards, key=lambda shard: (order[shard.name], shard.start))


def _as(buffer: Tensor, dtype: torch.dtype) -> Tensor:
    """As many values of `dtype`, no wider than float32, in the memory of a float32 buffer."""
    return buffer.view(dtype)[: buffer.numel()]


def _views(share: Sequence[ParamShard], part: Tensor) -> list[tuple[ParamShard, Tensor]]:
    pieces = torch.split(part[: numel(share)], [shard.numel for shard in share])
    return [(shard, piece.view_as(shard.of(shard.param))) for shard, piece in zip(share, pieces, strict=True)]


def _all_have_written() -> dist.Work:
    """A short message that arrives when all ranks have sent theirs."""
    work = dist.all_reduce(torch.zeros(1), async_op=True)
    assert work is not None
    return work


def _add_up(total: Tensor, first: Tensor, others: Sequence[Tensor]) -> None:
    """Into `total`, in the order given."""
    total.copy_(first)
    for other in others:
        total.add_(other)


def _copy_into_model(views: Sequence[tuple[ParamShard, Tensor]]) -> None:
    _copy([shard.of(shard.param.data) for shard, _ in views], [view for _, view in views])


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copies each source into its target, all in one call."""
    if targets:
        # torch has no public function for this.
        torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
