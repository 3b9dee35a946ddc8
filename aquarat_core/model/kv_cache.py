"""Keys and values of the tokens already read, for rows of different lengths in one batch.

Memory is allocated once; a row's next token is written at that row's own length, so prompts of unequal length need no
left padding and a row never sees another's padding.

Shapes: L layers, B rows, K key/value heads, S slots (the longest row the cache can hold), D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aquarat_core.config import ModelConfig


class KVCache:
    """Static key/value memory of B rows with up to S tokens each."""

    def __init__(self, config: ModelConfig, rows: int, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        if slots > config.sequence_len:
            raise ValueError(f"{slots} tokens do not fit the model's sequence_len of {config.sequence_len}")
        shape = (config.depth, rows, config.kv_heads, slots, config.head_size)
        self.k_LBKSD = torch.zeros(shape, dtype=dtype, device=device)
        self.v_LBKSD = torch.zeros(shape, dtype=dtype, device=device)
        self.ids_BS = torch.zeros((rows, slots), dtype=torch.long, device=device)
        self.lengths_B = torch.zeros(rows, dtype=torch.long, device=device)
        self._used = 0
        """No row is longer than this: attention need not look at the slots beyond."""

    @property
    def slots(self) -> int:
        return self.k_LBKSD.size(3)

    def positions(self, n: int) -> Tensor:
        """Positions [B, n] of the next n tokens of every row."""
        return self.lengths_B[:, None] + torch.arange(n, device=self.lengths_B.device)

    def append(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write T new tokens at each row's end; return all keys and values and the mask [B, 1, T, S'] of what
        each new token may look at. `advance` ends the step once every layer has written."""
        T = k_BKTD.size(2)
        positions_BT = self.positions(T)
        index = positions_BT[:, None, :, None].expand_as(k_BKTD)
        self.k_LBKSD[layer].scatter_(2, index, k_BKTD)
        self.v_LBKSD[layer].scatter_(2, index, v_BKTD)
        used = min(self._used + T, self.slots)
        visible = torch.arange(used, device=index.device) <= positions_BT[:, :, None]
        return self.k_LBKSD[layer, :, :, :used], self.v_LBKSD[layer, :, :, :used], visible[:, None]

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        """The last n token ids [B, n] of every row, oldest first, and which of them there are."""
        positions_BN = self.lengths_B[:, None] + torch.arange(-n, 0, device=self.lengths_B.device)
        return self.ids_BS.gather(1, positions_BN.clamp(min=0)), positions_BN >= 0

    def advance(self, ids_BT: Tensor) -> None:
        """Count these T tokens as read."""
        T = ids_BT.size(1)
        self.ids_BS.scatter_(1, self.positions(T), ids_BT)
        self.lengths_B += T
        self._used = min(self._used + T, self.slots)

    def truncate(self, lengths_B: Tensor) -> None:
        """Forget what lies beyond each row's length: how right padding of prompts is dropped."""
        self.lengths_B = lengths_B.clone()
        self._used = int(lengths_B.max())

    def repeat(self, times: int, slots: int) -> KVCache:
        """A cache of B x times rows, each row `times` times in a row, with room for `slots` tokens: one prompt's
        keys and values serve all of its samples."""
        L, B, K, _, D = self.k_LBKSD.shape
        wide = KVCache.__new__(KVCache)
        for name in ("k_LBKSD", "v_LBKSD"):
            source = getattr(self, name)
            copy = source.new_zeros((L, B * times, K, slots, D))
            copy[:, :, :, : self._used] = source[:, :, :, : self._used].repeat_interleave(times, dim=1)
            setattr(wide, name, copy)
        wide.ids_BS = self.ids_BS.new_zeros((B * times, slots))
        wide.ids_BS[:, : self._used] = self.ids_BS[:, : self._used].repeat_interleave(times, dim=0)
        wide.lengths_B = self.lengths_B.repeat_interleave(times)
        wide._used = self._used
        return wide

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order: finished rows stop costing time."""
        self.k_LBKSD, self.v_LBKSD = self.k_LBKSD[:, rows], self.v_LBKSD[:, rows]
        self.ids_BS, self.lengths_B = self.ids_BS[rows], self.lengths_B[rows]
