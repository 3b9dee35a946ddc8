"""Static KV cache: the keys and values of a prompt are computed once and shared by all rows that continue it.

A row is one completion being sampled. It attends to its prompt's keys, stored once for all samples of the prompt, and
to the keys of its generated tokens, one more at each step. One product multiplies a prompt's keys with the queries
of all its rows, each row in its own slot, so memory traffic does not grow with the number of samples. Rows and prompts
are replaced within the same tensors: decoding allocates nothing, and no shape depends on values that only the device
knows.

Generated tokens are stored in blocks. In bfloat16 on a CPU a product reads whole blocks, masked if they are not full:
oneDNN multiplies contiguous matrices at memory bandwidth, but copies all others first.

Shapes: L layers, P prompts, G slots (rows that may continue one prompt), R rows, H query heads, K key/value heads,
Q = H / K queries of one key/value head, N blocks of S generated tokens of a row, T tokens of a prompt, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aquarat_core.config import ModelConfig
from aquarat_core.runtime.memory import huge_zeros

CPU_BLOCK = 32
"""Generated tokens in one block in bfloat16 on a CPU; elsewhere a row has one block, of which the used part is read."""


MAX_VIEWS = 64
"""Sizes of batches for which views of the KV cache are kept."""

Layer = tuple[Tensor, Tensor]
"""Views of the keys and of the values of a layer."""


class CacheView(Protocol):
    """How the model reads and writes a KV cache in one forward pass over T new tokens of B rows."""

    is_prefill: bool
    """The tokens are the first of their rows: attention is causal and only among them, as in training."""

    def positions(self, n: int) -> Tensor:
        """Positions [B, n] of the n new tokens."""
        ...

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        """The n token ids [B, n] before the new ones, oldest first, and which of them exist."""
        ...

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        """Store the new tokens' keys and values."""
        ...

    def attend(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        """Attention [B, H, T, D] of the new tokens, each to the last `window` tokens of its row. Not called if
        `is_prefill`."""
        ...

    def advance(self, ids_BT: Tensor) -> None:
        """Called when every layer has written: count these tokens as read."""
        ...


class KVCache:
    """Keys and values of up to P prompts of T tokens, with G rows each, and of the generated tokens of up to R rows.

    With `block`, generated tokens are stored in blocks of this size, and blocks are read as a whole. The default is
    `CPU_BLOCK` where that is faster.
    """

    def __init__(
        self,
        config: ModelConfig,
        prompts: int,
        prompt_len: int,
        slots: int,
        rows: int,
        row_len: int,
        dtype: torch.dtype,
        device: torch.device,
        block: int | None = None,
    ) -> None:
        if block is None and device.type == "cpu" and dtype == torch.bfloat16:
            block = CPU_BLOCK
        L, K, D = config.depth, config.kv_heads, config.head_size
        self.slots, self.dtype, self.device = slots, dtype, device
        self.prompt_k_LPKDT = self._zeros(L, prompts, K, D, prompt_len)
        self.prompt_v_LPKTD = self._zeros(L, prompts, K, prompt_len, D)
        self.whole_blocks = block is not None
        self.block = min(block or row_len, row_len)
        blocks = -(-row_len // self.block)
        self.row_k_LNRKSD, self.row_v_LNRKSD = (self._zeros(L, blocks, rows, K, self.block, D) for _ in range(2))
        self.prompt_lengths_P = torch.ones(prompts, dtype=torch.long, device=device)
        self.prompt_R = torch.zeros(rows, dtype=torch.long, device=device)
        self.slot_R = torch.zeros(rows, dtype=torch.long, device=device)
        self.n_generated_R = torch.zeros(rows, dtype=torch.long, device=device)
        """Number of generated tokens of each row."""
        n_recent = max(config.embedding_taps, 1)
        self.recent_RN = torch.full((rows, n_recent), -1, dtype=torch.long, device=device)
        """The last token ids of each row, oldest first; -1 before the start of the row."""
        self._views: dict[tuple[str, int, int], list[Layer]] = {}

    def fits(self, prompts: int, prompt_len: int, slots: int, rows: int, row_len: int) -> bool:
        """Whether a batch of this size fits; the numbers of slots and rows must be equal."""
        P, T, R, S = self.size
        return slots == self.slots and rows == R and prompts <= P and prompt_len <= T and row_len <= S

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Prompts, tokens of a prompt, rows, and generated tokens of a row that fit."""
        _, P, _, T, _ = self.prompt_v_LPKTD.shape
        _, N, R, _, S, _ = self.row_k_LNRKSD.shape
        return P, T, R, N * S

    def _zeros(self, *shape: int) -> Tensor:
        return (huge_zeros if self.device.type == "cpu" else torch.zeros)(shape, dtype=self.dtype, device=self.device)

    def resize_prompts(self, prompt_len: int, keep: int) -> None:
        """Change the room for a prompt to `prompt_len` tokens, and keep the first `keep` tokens of all prompts.

        Their tensors are new afterwards: steps that were captured before must not be replayed.
        """
        old_k, old_v = self.prompt_k_LPKDT, self.prompt_v_LPKTD
        self.prompt_k_LPKDT = self._zeros(*old_k.shape[:-1], prompt_len)
        self.prompt_k_LPKDT[..., :keep] = old_k[..., :keep]
        self.prompt_v_LPKTD = self._zeros(*old_v.shape[:3], prompt_len, old_v.size(4))
        self.prompt_v_LPKTD[:, :, :, :keep] = old_v[:, :, :, :keep]
        self._views.clear()

    def prompt_layers(self, prompts: int, length: int) -> list[Layer]:
        """Keys [P x K, D, T] and values [P x K, T, D] of the first tokens of the first prompts, for each layer."""

        def layer(i: int) -> Layer:
            k_PKDT, v_PKTD = self.prompt_k_LPKDT[i, :prompts, :, :, :length], self.prompt_v_LPKTD[i, :prompts]
            return k_PKDT.flatten(0, 1), v_PKTD[:, :, :length].flatten(0, 1)

        return self._kept(("prompts", prompts, length), layer)

    def row_layers(self, block: int, rows: int) -> list[Layer]:
        """Keys and values [R x K, S, D] of a block of the first rows, for each layer."""

        def layer(i: int) -> Layer:
            return self.row_k_LNRKSD[i, block, :rows].flatten(0, 1), self.row_v_LNRKSD[i, block, :rows].flatten(0, 1)

        return self._kept(("rows", block, rows), layer)

    def _kept(self, key: tuple[str, int, int], layer: Callable[[int], Layer]) -> list[Layer]:
        """The views of all layers: to make them anew takes as long as a step's attention in few rows."""
        if key not in self._views:
            if len(self._views) >= MAX_VIEWS:
                self._views.clear()
            self._views[key] = [layer(i) for i in range(len(self.row_k_LNRKSD))]
        return self._views[key]

    def move_rows(self, source: Tensor, target: Tensor, n_generated: int) -> None:
        """Copy the rows `source`, which have up to `n_generated` generated tokens, to `target`."""
        used = -(-n_generated // self.block)
        for tensor in (self.row_k_LNRKSD[:, :used], self.row_v_LNRKSD[:, :used]):
            tensor[:, :, target, :, :n_generated] = tensor[:, :, source, :, :n_generated]
        for state in (self.prompt_R, self.slot_R, self.n_generated_R, self.recent_RN):
            state[target] = state[source]

    def move_prompts(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy the prompts `source`, which have up to `length` tokens, to `target` and redirect their rows."""
        for tensor in (self.prompt_k_LPKDT[..., :length], self.prompt_v_LPKTD[:, :, :, :length]):
            tensor[:, target] = tensor[:, source]
        self.prompt_lengths_P[target] = self.prompt_lengths_P[source]
        new_index_P = torch.arange(len(self.prompt_lengths_P), device=source.device)
        new_index_P[source] = target
        self.prompt_R.copy_(new_index_P[self.prompt_R])

    def start_rows(self, rows: Tensor, prompts: Tensor, slots: Tensor, last_ids_BN: Tensor) -> None:
        """Start new rows after prompts that were prefilled; `last_ids_BN` are the prompts' last tokens."""
        self.prompt_R[rows], self.slot_R[rows], self.n_generated_R[rows] = prompts, slots, 0
        self.recent_RN[rows] = last_ids_BN

    def clear_rows(self, first: int) -> None:
        """Reset the rows from `first` on to valid indices: a step may compute them along with the live rows."""
        self.prompt_R[first:], self.slot_R[first:], self.n_generated_R[first:] = 0, 0, 1


class Prefill:
    """Writes whole prompts, padded on the right, to the indices `prompts` of a KV cache."""

    is_prefill = True

    def __init__(self, kv_cache: KVCache, prompts: Tensor, lengths: Tensor) -> None:
        self.kv_cache, self.prompts = kv_cache, prompts
        kv_cache.prompt_lengths_P[prompts] = lengths

    def positions(self, n: int) -> Tensor:
        return torch.arange(n, device=self.prompts.device)[None]

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        ids = self.prompts.new_zeros((len(self.prompts), n))
        return ids, torch.zeros_like(ids, dtype=torch.bool)

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        T = k_BKTD.size(2)
        self.kv_cache.prompt_k_LPKDT[layer][self.prompts, :, :, :T] = k_BKTD.transpose(2, 3).to(self.kv_cache.dtype)
        self.kv_cache.prompt_v_LPKTD[layer][self.prompts, :, :T] = v_BKTD.to(self.kv_cache.dtype)

    def attend(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        raise AssertionError("a prefill attends only among its own tokens")

    def advance(self, ids_BT: Tensor) -> None:
        pass  # `start_rows` gets the prompts' last tokens


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """What the host knows about one decoding step: how much of the KV cache it reads."""

    rows: int
    """Only the first `rows` rows get a token."""
    prompts: int
    """Their prompts are among the first `prompts` prompts."""
    prompt_len: int
    """No prompt is longer than this."""
    n_generated: int
    """No row has more generated tokens than this, including the new one."""
    same_age: bool = False
    """All rows have exactly `n_generated` generated tokens: no mask is needed."""
    in_slot_order: bool = False
    """Row i is in slot i of the concatenated slots of all prompts: no indices are needed."""
    same_prompt_len: bool = False
    """All prompts have exactly `prompt_len` tokens: no mask is needed for them."""


class Decode:
    """Decodes one new token of each row of `shape`; `n_generated_R` already counts it.

    Rows that are not in `live_R` may have the same slot as another row: they are kept out of all slots, and their
    results are meaningless.
    """

    is_prefill = False

    def __init__(self, kv_cache: KVCache, shape: DecodeShape, live_R: Tensor | None = None) -> None:
        rows, prompts, n_generated = shape.rows, shape.prompts, shape.n_generated
        self.kv_cache, self.rows, self.prompts = kv_cache, rows, prompts
        self.blocks = -(-n_generated // kv_cache.block)
        self.n_last = kv_cache.block if kv_cache.whole_blocks else n_generated
        """Tokens of the last block that are read."""
        self.prompt_len = kv_cache.prompt_v_LPKTD.size(3) if kv_cache.whole_blocks else shape.prompt_len
        device, n_read = kv_cache.n_generated_R.device, (self.blocks - 1) * kv_cache.block + self.n_last
        newest_R, prompt_R = kv_cache.n_generated_R[:rows] - 1, kv_cache.prompt_R[:rows]
        self.positions_R = kv_cache.prompt_lengths_P[prompt_R] + newest_R
        self.prompt_layers = kv_cache.prompt_layers(prompts, self.prompt_len)
        self.row_layers = [kv_cache.row_layers(block, rows) for block in range(self.blocks)]
        self.gather_index_R = self.scatter_index_R = None
        if not shape.in_slot_order:
            self.gather_index_R = prompt_R * kv_cache.slots + kv_cache.slot_R[:rows]
            dead_R = torch.zeros_like(self.gather_index_R, dtype=torch.bool) if live_R is None else ~live_R[:rows]
            self.scatter_index_R = self.gather_index_R.masked_fill(dead_R, prompts * kv_cache.slots)
            """The same, but dead rows get a trash slot after the last one."""
        self.newest_R, self.prompt_bias, self.generated_bias = newest_R, None, None
        if not shape.same_prompt_len or self.prompt_len > shape.prompt_len:
            unseen_PT = torch.arange(self.prompt_len, device=device) >= kv_cache.prompt_lengths_P[:prompts, None]
            self.prompt_bias = self._bias(unseen_PT)
        if not shape.same_age or n_read > n_generated:
            self.generated_bias = self._bias(torch.arange(n_read, device=device) > newest_R[:, None])
        self.offset = (n_generated - 1) % kv_cache.block
        """Where all rows write, in the last block that is read; else they write to `new`."""
        self.new = None
        if not shape.same_age:
            block_R, offset_R = newest_R // kv_cache.block, newest_R % kv_cache.block
            self.new = (block_R, torch.arange(rows, device=device), slice(None), offset_R)

    def positions(self, n: int) -> Tensor:
        return self.positions_R[:, None]

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        recent = self.kv_cache.recent_RN[: self.rows, -n:]
        return recent.clamp(min=0), recent >= 0

    def advance(self, ids_BT: Tensor) -> None:
        recent = self.kv_cache.recent_RN[: self.rows]
        recent.copy_(torch.cat((recent[:, 1:], ids_BT), dim=1))

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        m = self.kv_cache
        if self.new is not None:
            m.row_k_LNRKSD[layer][self.new] = k_BKTD[:, :, 0].to(m.dtype)
            m.row_v_LNRKSD[layer][self.new] = v_BKTD[:, :, 0].to(m.dtype)
            return
        for block_ZSD, x_BKTD in zip(self.row_layers[-1][layer], (k_BKTD, v_BKTD), strict=True):
            block_ZSD.select(1, self.offset).copy_(x_BKTD.reshape(-1, x_BKTD.size(3)))

    def attend(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        m, (R, H, _, D) = self.kv_cache, q_BHTD.shape
        K, T = m.row_k_LNRKSD.size(3), self.prompt_len
        Q, (prompt_k, prompt_v) = H // K, self.prompt_layers[layer]
        q_RKQD = (q_BHTD.to(m.dtype) * D**-0.5).view(R, K, Q, D)
        generated = [self._read(layers[layer], block) for block, layers in enumerate(self.row_layers)]

        prompt_XYT = torch.bmm(self._to_slots(q_RKQD), prompt_k)
        if self.prompt_bias is not None:
            prompt_XYT.view(self.prompts, K, -1, T).add_(self.prompt_bias)
        flat_ZQD = q_RKQD.view(R * K, Q, D)
        of_blocks = [torch.bmm(flat_ZQD, k_ZSD.transpose(1, 2)) for k_ZSD, _ in generated]
        scores = torch.cat((self._to_rows(prompt_XYT, K, Q), *of_blocks), dim=-1)
        scores_RKQX = scores.view(R, K, Q, -1)
        if self.generated_bias is not None:
            scores_RKQX[..., T:] += self.generated_bias
        if window < scores.size(-1):
            scores_RKQX.masked_fill_(self._far(window, scores.size(-1)), -torch.inf)
        sizes = [T, *(v_ZSD.size(1) for _, v_ZSD in generated)]
        prompt_weights, *weights = torch.softmax(scores, dim=-1).split_with_sizes(sizes, dim=-1)

        y = self._to_rows(torch.bmm(self._to_slots(prompt_weights.view(R, K, Q, T)), prompt_v), K, Q)
        for part, (_, v_ZSD) in zip(weights, generated, strict=True):
            y = y + torch.bmm(part, v_ZSD)
        return y.to(q_BHTD.dtype).view(R, H, 1, D)

    def _read(self, views: Layer, block: int) -> Layer:
        """The keys and values [R x K, S, D] of the generated tokens of `block` that are read."""
        k_ZSD, v_ZSD = views
        if block < self.blocks - 1 or self.n_last == k_ZSD.size(1):
            return views
        return k_ZSD[:, : self.n_last], v_ZSD[:, : self.n_last]

    def _bias(self, unseen_BX: Tensor) -> Tensor:
        """The bias [B, 1, 1, X] to add to scores."""
        bias = torch.zeros(unseen_BX.shape, dtype=self.kv_cache.dtype, device=unseen_BX.device)
        return bias.masked_fill_(unseen_BX, -torch.inf)[:, None, None]

    def _far(self, window: int, n: int) -> Tensor:
        """[R, 1, 1, n]: which of the prompt's and generated tokens are `window` or more before the new one."""
        T = self.prompt_len
        at_X = torch.arange(n, device=self.newest_R.device)
        oldest_RX = torch.where(at_X < T, self.positions_R[:, None], T + self.newest_R[:, None]) - window
        return (at_X <= oldest_RX)[:, None, None]

    def _to_slots(self, x_RKQX: Tensor) -> Tensor:
        """[R, K, Q, X] to [P x K, G x Q, X]: the rows of a prompt side by side, zeros in empty slots."""
        P, G, (_, K, Q, X) = self.prompts, self.kv_cache.slots, x_RKQX.shape
        slots = x_RKQX
        if self.scatter_index_R is not None:
            slots = x_RKQX.new_zeros((P * G + 1, K, Q, X)).index_copy_(0, self.scatter_index_R, x_RKQX)[: P * G]
        if G == 1:
            return slots.view(P * K, Q, X)
        return slots.view(P, G, K, Q, X).transpose(1, 2).reshape(P * K, G * Q, X)

    def _to_rows(self, x_PKGX: Tensor, K: int, Q: int) -> Tensor:
        """[P x K, G x Q, X] back to [R x K, Q, X]."""
        P, G, X = self.prompts, self.kv_cache.slots, x_PKGX.size(2)
        if G > 1:
            x_PKGX = x_PKGX.view(P, K, G, Q, X).transpose(1, 2)
        if self.gather_index_R is None:
            return x_PKGX.reshape(-1, Q, X)
        return x_PKGX.reshape(P * G, K, Q, X).index_select(0, self.gather_index_R).view(-1, Q, X)


def last_ids(prompts: Sequence[Sequence[int]], n: int) -> Tensor:
    """The last n token ids [B, n] of each prompt; -1 before its start."""
    tails = [list(prompt[max(0, len(prompt) - n) :]) if n else [] for prompt in prompts]
    return torch.tensor([[-1] * (n - len(tail)) + tail for tail in tails], dtype=torch.long).view(len(prompts), n)
