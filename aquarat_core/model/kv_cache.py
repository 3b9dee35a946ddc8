"""Static key and value memory: a prompt's is computed once and shared by all rows that continue it.

A row is one completion being sampled. It sees its prompt's keys, kept once for all samples of the prompt, and its own,
which grow by one token a step. The queries of a prompt's rows meet its keys in one product, each row in a lane of its
own, so memory traffic does not grow with the number of samples. Rows and prompts come and go inside the same memory:
nothing is allocated while tokens are made, and no shape depends on values that only the device knows.

Rows' own tokens lie in blocks. In bfloat16 on a CPU a product reads whole blocks, masked where they are not full: there
oneDNN multiplies what is contiguous at the speed of memory and copies all else first.

Shapes: L layers, P prompts, G lanes (rows that may continue one prompt), R rows, H query heads, K key/value heads,
Q = H / K queries of one key/value head, N blocks of S own tokens of a row, T tokens of a prompt, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aquarat_core.config import ModelConfig
from aquarat_core.runtime.memory import huge_zeros

CPU_BLOCK = 32
"""Own tokens in one block in bfloat16 on a CPU; elsewhere all of a row's are one block, of which a part is read."""


class Cache(Protocol):
    """What the model asks of a memory while it reads T new tokens of B rows."""

    is_prefill: bool
    """The tokens are the first of their rows: attention is causal among them alone, as in training."""

    def positions(self, n: int) -> Tensor:
        """Positions [B, n] of the n new tokens."""

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        """The n token ids [B, n] before the new ones, oldest first, and which of them there are."""

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        """Keep the new tokens' keys and values."""

    def read(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        """Attention [B, H, T, D] of the new tokens, each to the last `window` that its row holds; not asked of a
        prefill."""

    def advance(self, ids_BT: Tensor) -> None:
        """Every layer has written: count these tokens as read."""


class KVMemory:
    """Keys and values of up to P prompts of T tokens, G rows to each, and of up to R rows of own tokens.

    With `block`, rows' own tokens lie in blocks of so many, which are read whole; it is `CPU_BLOCK` where that helps.
    """

    def __init__(
        self,
        config: ModelConfig,
        prompts: int,
        prompt_len: int,
        lanes: int,
        rows: int,
        row_len: int,
        dtype: torch.dtype,
        device: torch.device,
        block: int | None = None,
    ) -> None:
        if block is None and device.type == "cpu" and dtype == torch.bfloat16:
            block = CPU_BLOCK
        L, K, D = config.depth, config.kv_heads, config.head_size
        zeros = huge_zeros if device.type == "cpu" else torch.zeros
        self.lanes, self.dtype = lanes, dtype
        self.prompt_k_LPKDT = zeros((L, prompts, K, D, prompt_len), dtype=dtype, device=device)
        self.prompt_v_LPKTD = zeros((L, prompts, K, prompt_len, D), dtype=dtype, device=device)
        self.whole_blocks = block is not None
        self.block = min(block or row_len, row_len)
        blocks = -(-row_len // self.block)
        own = (L, blocks, rows, K, self.block, D)
        self.row_k_LNRKSD, self.row_v_LNRKSD = (zeros(own, dtype=dtype, device=device) for _ in range(2))
        self.prompt_lengths_P = torch.ones(prompts, dtype=torch.long, device=device)
        self.prompt_R = torch.zeros(rows, dtype=torch.long, device=device)
        self.lane_R = torch.zeros(rows, dtype=torch.long, device=device)
        self.ages_R = torch.zeros(rows, dtype=torch.long, device=device)
        """Own tokens of each row."""
        n_recent = max(config.embedding_taps, 1)
        self.recent_RN = torch.full((rows, n_recent), -1, dtype=torch.long, device=device)
        """The last token ids of each row, oldest first; -1 where there is none."""

    def fits(self, prompts: int, prompt_len: int, lanes: int, rows: int, row_len: int) -> bool:
        """Whether this memory serves a batch of this size; lanes and rows must be the same."""
        P, T, R, S = self.size
        return lanes == self.lanes and rows == R and prompts <= P and prompt_len <= T and row_len <= S

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Prompts, tokens of a prompt, rows, and own tokens of a row that fit."""
        _, P, _, T, _ = self.prompt_v_LPKTD.shape
        _, N, R, _, S, _ = self.row_k_LNRKSD.shape
        return P, T, R, N * S

    def move_rows(self, source: Tensor, target: Tensor, n_own: int) -> None:
        """Copy the rows `source`, which hold up to `n_own` own tokens, to the places `target`."""
        used = -(-n_own // self.block)
        for memory in (self.row_k_LNRKSD[:, :used], self.row_v_LNRKSD[:, :used]):
            memory[:, :, target, :, :n_own] = memory[:, :, source, :, :n_own]
        for state in (self.prompt_R, self.lane_R, self.ages_R, self.recent_RN):
            state[target] = state[source]

    def move_prompts(self, source: Tensor, target: Tensor) -> None:
        """Copy the prompts `source` to the places `target` and lead their rows there."""
        for memory in (self.prompt_k_LPKDT, self.prompt_v_LPKTD):
            memory[:, target] = memory[:, source]
        self.prompt_lengths_P[target] = self.prompt_lengths_P[source]
        place_P = torch.arange(len(self.prompt_lengths_P), device=source.device)
        place_P[source] = target
        self.prompt_R.copy_(place_P[self.prompt_R])

    def place_rows(self, rows: Tensor, prompts: Tensor, lanes: Tensor, last_ids_BN: Tensor) -> None:
        """Start new rows after prompts that have been read; `last_ids_BN` are the prompts' last tokens."""
        self.prompt_R[rows], self.lane_R[rows], self.ages_R[rows] = prompts, lanes, 0
        self.recent_RN[rows] = last_ids_BN

    def clear_rows(self, first: int) -> None:
        """Leave nothing in the places from `first` on that a step which reads them along could stumble over."""
        self.prompt_R[first:], self.lane_R[first:], self.ages_R[first:] = 0, 0, 1


class Prefill:
    """Reading of whole prompts, padded at the right, into the places `prompts` of a memory."""

    is_prefill = True

    def __init__(self, memory: KVMemory, prompts: Tensor, lengths: Tensor) -> None:
        self.memory, self.prompts = memory, prompts
        memory.prompt_lengths_P[prompts] = lengths

    def positions(self, n: int) -> Tensor:
        return torch.arange(n, device=self.prompts.device)[None]

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        ids = self.prompts.new_zeros((len(self.prompts), n))
        return ids, torch.zeros_like(ids, dtype=torch.bool)

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        T = k_BKTD.size(2)
        self.memory.prompt_k_LPKDT[layer][self.prompts, :, :, :T] = k_BKTD.transpose(2, 3).to(self.memory.dtype)
        self.memory.prompt_v_LPKTD[layer][self.prompts, :, :T] = v_BKTD.to(self.memory.dtype)

    def read(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        raise AssertionError("a prefill attends among its own tokens")

    def advance(self, ids_BT: Tensor) -> None:
        pass  # rows are told of their prompt's last tokens when they start


@dataclass(frozen=True, slots=True)
class Extent:
    """What the host knows of one decoding step: as much of the memory as it reads."""

    rows: int
    """The first so many rows get a token."""
    prompts: int
    """Their prompts are among the first so many."""
    prompt_len: int
    """No prompt is longer."""
    n_own: int
    """No row holds more own tokens, the new one included."""
    abreast: bool = False
    """All rows are `n_own` tokens old: no mask is needed."""
    in_lanes: bool = False
    """Row i is in lane i of all the prompts' lanes one after another: no indices are needed."""


class Decode:
    """One new token of each row of `extent`; the rows' ages already count it.

    With `live_R`, rows that are not live may lie in a lane of another row: they are kept out of all lanes, and what is
    computed for them means nothing.
    """

    is_prefill = False

    def __init__(self, memory: KVMemory, extent: Extent, live_R: Tensor | None = None) -> None:
        rows, prompts, n_own = extent.rows, extent.prompts, extent.n_own
        self.memory, self.rows, self.prompts = memory, rows, prompts
        self.blocks = -(-n_own // memory.block)
        self.n_last = memory.block if memory.whole_blocks else n_own
        """Tokens that are read of the last block."""
        self.prompt_len = memory.prompt_v_LPKTD.size(3) if memory.whole_blocks else extent.prompt_len
        device, n_read = memory.ages_R.device, (self.blocks - 1) * memory.block + self.n_last
        newest_R, prompt_R = memory.ages_R[:rows] - 1, memory.prompt_R[:rows]
        self.positions_R = memory.prompt_lengths_P[prompt_R] + newest_R
        unseen_PT = torch.arange(self.prompt_len, device=device) >= memory.prompt_lengths_P[:prompts, None]
        self.prompt_bias = self._bias(unseen_PT)
        self.place_R = self.seat_R = None
        if not extent.in_lanes:
            self.place_R = prompt_R * memory.lanes + memory.lane_R[:rows]
            dead_R = torch.zeros_like(self.place_R, dtype=torch.bool) if live_R is None else ~live_R[:rows]
            self.seat_R = self.place_R.masked_fill(dead_R, prompts * memory.lanes)
            """The same, but one after the last lane where nobody is to be disturbed."""
        self.newest_R, self.own_bias = newest_R, None
        if not extent.abreast or n_read > n_own:
            self.own_bias = self._bias(torch.arange(n_read, device=device) > newest_R[:, None])
        if extent.abreast:
            block, place = divmod(n_own - 1, memory.block)
            self.new = (block, slice(rows), slice(None), place)
        else:
            self.new = (
                newest_R // memory.block,
                torch.arange(rows, device=device),
                slice(None),
                newest_R % memory.block,
            )

    def positions(self, n: int) -> Tensor:
        return self.positions_R[:, None]

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        recent = self.memory.recent_RN[: self.rows, -n:]
        return recent.clamp(min=0), recent >= 0

    def advance(self, ids_BT: Tensor) -> None:
        recent = self.memory.recent_RN[: self.rows]
        recent.copy_(torch.cat((recent[:, 1:], ids_BT), dim=1))

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        m = self.memory
        m.row_k_LNRKSD[layer][self.new] = k_BKTD[:, :, 0].to(m.dtype)
        m.row_v_LNRKSD[layer][self.new] = v_BKTD[:, :, 0].to(m.dtype)

    def read(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        m, (R, H, _, D) = self.memory, q_BHTD.shape
        P, K, T = self.prompts, m.row_k_LNRKSD.size(3), self.prompt_len
        q_RKQD = (q_BHTD.to(m.dtype) * D**-0.5).view(R, K, H // K, D)

        prompt_PKGQT = self._to_lanes(q_RKQD) @ m.prompt_k_LPKDT[layer, :P, :, :, :T]
        prompt_PKGQT += self.prompt_bias
        own = [q_RKQD @ k_RKSD.transpose(2, 3) for k_RKSD in self._own(m.row_k_LNRKSD[layer])]
        scores = torch.cat((self._to_rows(prompt_PKGQT, H // K), *own), dim=-1)
        if self.own_bias is not None:
            scores[..., T:] += self.own_bias
        if window < scores.size(3):
            scores.masked_fill_(self._far(window, scores.size(3)), -torch.inf)
        weights = torch.softmax(scores, dim=-1)

        prompt_PKGQD = self._to_lanes(weights[..., :T]) @ m.prompt_v_LPKTD[layer, :P, :, :T]
        y_RKQD = self._to_rows(prompt_PKGQD, H // K)
        for i, v_RKSD in enumerate(self._own(m.row_v_LNRKSD[layer])):
            start = T + i * m.block
            y_RKQD = y_RKQD + weights[..., start : start + v_RKSD.size(2)] @ v_RKSD
        return y_RKQD.to(q_BHTD.dtype).view(R, H, 1, D)

    def _own(self, memory_NRKSD: Tensor) -> list[Tensor]:
        """The rows' own keys or values [R, K, S, D] that are read, block by block."""
        rows = memory_NRKSD[: self.blocks, : self.rows].unbind(0)
        return [*rows[:-1], rows[-1][:, :, : self.n_last]]

    def _bias(self, unseen_BX: Tensor) -> Tensor:
        """[B, 1, 1, X] to be added to scores."""
        bias = torch.zeros(unseen_BX.shape, dtype=self.memory.dtype, device=unseen_BX.device)
        return bias.masked_fill_(unseen_BX, -torch.inf)[:, None, None]

    def _far(self, window: int, n: int) -> Tensor:
        """[R, 1, 1, n]: which of the prompt's and the row's own tokens lie `window` or more before the new one."""
        T = self.prompt_len
        at_X = torch.arange(n, device=self.newest_R.device)
        oldest_RX = torch.where(at_X < T, self.positions_R[:, None], T + self.newest_R[:, None]) - window
        return (at_X <= oldest_RX)[:, None, None]

    def _to_lanes(self, x_RKQX: Tensor) -> Tensor:
        """[R, K, Q, X] to [P, K, G x Q, X]: the rows of a prompt side by side, zeros in lanes without a row."""
        P, G, (_, K, Q, X) = self.prompts, self.memory.lanes, x_RKQX.shape
        lanes = x_RKQX
        if self.seat_R is not None:
            lanes = x_RKQX.new_zeros((P * G + 1, K, Q, X)).index_copy_(0, self.seat_R, x_RKQX)[: P * G]
        return lanes.view(P, G, K, Q, X).transpose(1, 2).reshape(P, K, G * Q, X)

    def _to_rows(self, x_PKGX: Tensor, Q: int) -> Tensor:
        """[P, K, G x Q, X] back to [R, K, Q, X]."""
        P, G, (_, K, _, X) = self.prompts, self.memory.lanes, x_PKGX.shape
        lanes = x_PKGX.view(P, K, G, Q, X).transpose(1, 2).reshape(P * G, K, Q, X)
        return lanes if self.place_R is None else lanes.index_select(0, self.place_R)


def last_ids(prompts: Sequence[Sequence[int]], n: int) -> Tensor:
    """The last n token ids [B, n] of each prompt, -1 before its start."""
    tails = [list(prompt[max(0, len(prompt) - n) :]) if n else [] for prompt in prompts]
    return torch.tensor([[-1] * (n - len(tail)) + tail for tail in tails], dtype=torch.long).view(len(prompts), n)
