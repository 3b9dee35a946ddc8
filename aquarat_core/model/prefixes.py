"""Views of a KV cache for texts that are known in full: contexts read once, then several continuations of each.

`kv_cache.py` serves sampling, where every row gets one token at a time. Here all tokens of a row are known, so that two
passes read everything: one over the contexts, whose keys and values are kept, and one over all tokens of all
continuations.

Shapes: P contexts, G continuations of each, R = P x G rows, T tokens of a context, M of a continuation, H query heads,
K key/value heads, Q = H / K queries of one key/value head, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aquarat_core.model.attention import attend
from aquarat_core.model.kv_cache import last_ids


class Causal:
    """Causal attention among the tokens of each of `rows` rows, as in training.

    With `keep`, the keys and values of all layers stay for `Continuations`. A layer whose window is `whole`, which is
    the model's `sequence_len`, sees everything, however long the row is.
    """

    is_prefill = False  # else the layers would use their windows as they are

    def __init__(self, rows: int, whole: int, device: torch.device, keep: bool = False) -> None:
        self.rows, self.whole, self.device, self.keep = rows, whole, device, keep
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def positions(self, n: int) -> Tensor:
        return torch.arange(n, device=self.device)[None]

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        ids = torch.zeros((self.rows, n), dtype=torch.long, device=self.device)
        return ids, torch.zeros_like(ids, dtype=torch.bool)

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        if not self.keep:
            self.keys.clear()
            self.values.clear()
        self.keys.append(k_BKTD)
        self.values.append(v_BKTD)

    def attend(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        return attend(q_BHTD, self.keys[-1], self.values[-1], q_BHTD.size(2) if window >= self.whole else window)

    def advance(self, ids_BT: Tensor) -> None:
        pass


class Continuations:
    """`slots` continuations of each of the `contexts` that `prefill` has read; row i continues context i // slots.

    Each token attends to its row's context, which is stored once, and to the tokens before it in its row.
    """

    is_prefill = False

    def __init__(self, prefill: Causal, contexts: Sequence[Sequence[int]], slots: int) -> None:
        self.prefill, self.slots, self.device = prefill, slots, prefill.device
        self.contexts = contexts
        self.lengths_P = torch.tensor([len(context) for context in contexts], device=self.device)
        self.lengths_R = self.lengths_P.repeat_interleave(slots)

    def positions(self, n: int) -> Tensor:
        return self.lengths_R[:, None] + torch.arange(n, device=self.device)

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        ids_RN = last_ids(self.contexts, n).to(self.device).repeat_interleave(self.slots, dim=0)
        return ids_RN.clamp(min=0), ids_RN >= 0

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        self.k_RKMD, self.v_RKMD = k_BKTD, v_BKTD

    def attend(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        R, H, M, D = q_BHTD.shape
        context_k_PKTD, context_v_PKTD = self.prefill.keys[layer], self.prefill.values[layer]
        P, K, T, _ = context_k_PKTD.shape
        G, Q = self.slots, H // K
        scaled = q_BHTD * D**-0.5
        # The queries of all continuations of a context are multiplied with its keys at once.
        q_PKXD = scaled.reshape(P, G, K, Q, M, D).transpose(1, 2).reshape(P, K, G * Q * M, D)
        q_RKYD = scaled.reshape(R, K, Q * M, D)
        context_scores = (q_PKXD @ context_k_PKTD.transpose(2, 3)).float().view(P, K, G, Q, M, T)
        own_scores = (q_RKYD @ self.k_RKMD.transpose(2, 3)).float().view(P, G, K, Q, M, M).transpose(1, 2)
        far_PMT, far_MM = self._unseen(M, T, window)
        context_scores.masked_fill_(far_PMT[:, None, None, None], -math.inf)
        own_scores.masked_fill_(far_MM, -math.inf)
        weights = torch.softmax(torch.cat([context_scores, own_scores], dim=-1), dim=-1).to(q_BHTD.dtype)
        y_PKXD = weights[..., :T].reshape(P, K, G * Q * M, T) @ context_v_PKTD
        own_weights = weights[..., T:].transpose(1, 2).reshape(R, K, Q * M, M)
        y_RKYD = own_weights @ self.v_RKMD
        shared = y_PKXD.view(P, K, G, Q, M, D).transpose(1, 2).reshape(R, H, M, D)
        return shared + y_RKYD.view(R, H, M, D)

    def _unseen(self, M: int, T: int, window: int) -> tuple[Tensor, Tensor]:
        """Which tokens of its context [P, M, T] and of its row [M, M] a token may not attend to."""
        at_M, at_T = torch.arange(M, device=self.device), torch.arange(T, device=self.device)
        back_MM = at_M[:, None] - at_M
        unseen_PMT = (at_T >= self.lengths_P[:, None, None]).expand(-1, M, -1)
        if window >= self.prefill.whole:
            return unseen_PMT, back_MM < 0
        back_PMT = self.lengths_P[:, None, None] + at_M[:, None] - at_T
        return unseen_PMT | (back_PMT >= window), (back_MM < 0) | (back_MM >= window)

    def advance(self, ids_BT: Tensor) -> None:
        pass
