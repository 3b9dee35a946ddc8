"""Attention seen from outside: the model runs as in training, and shows its queries and keys.

No kernel gives attention weights back, and the model computes none to keep. A KV cache, however, is told every layer's
keys and is asked for the attention of every layer's queries. The cache in here keeps nothing from one pass to the next:
it attends as training does, and shows what it was given to whoever asked to look.

Shapes: B rows, T tokens, Q queries, C width, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from aquarat_core.model.transformer import Transformer, attend

Look = Callable[[int, Tensor, Tensor, int], None]
"""Called once for each layer, with its number, its queries [B, H, T, D], its keys [B, K, T, D] and its window."""

MAX_WEIGHTS = 1 << 24
"""Attention weights that `all_attention` has in memory at a time; in float32 they take 64 MiB."""


@torch.no_grad()
def watch(model: Transformer, ids_BT: Tensor, look: Look) -> Tensor:
    """`model.hidden(ids_BT)`, [B, T, C], with `look` called by each layer on the way."""
    return model.hidden(ids_BT, _Watching(ids_BT, look))


def attention_from(q_BHTD: Tensor, k_BKTD: Tensor, position_B: Tensor, window: int) -> Tensor:
    """Attention weights [B, H, T], in float32, of the one query at each row's position."""
    B, H, T, D = q_BHTD.shape
    at_BHD = q_BHTD[torch.arange(B, device=q_BHTD.device), :, position_B].float()
    k_BHTD = k_BKTD.float().repeat_interleave(H // k_BKTD.size(1), dim=1)
    scores_BHT = (k_BHTD @ at_BHD[..., None]).squeeze(3) * D**-0.5
    distance_BT = position_B[:, None] - torch.arange(T, device=q_BHTD.device)
    unseen_BT = (distance_BT < 0) | (distance_BT >= window)
    return torch.softmax(scores_BHT.masked_fill(unseen_BT[:, None], -torch.inf), dim=2)


def attention_of(q_BHQD: Tensor, k_BKTD: Tensor, first: int, window: int) -> Tensor:
    """Attention weights [B, H, Q, first + Q], in float32, of queries at the positions from `first` on."""
    H, Q, D = q_BHQD.shape[1:]
    seen = first + Q
    k_BHTD = k_BKTD[:, :, :seen].float().repeat_interleave(H // k_BKTD.size(1), dim=1)
    scores_BHQT = (q_BHQD.float() @ k_BHTD.transpose(2, 3)) * D**-0.5
    distance_QT = distances(first, Q, q_BHQD.device)
    return torch.softmax(scores_BHQT.masked_fill((distance_QT < 0) | (distance_QT >= window), -torch.inf), dim=3)


def all_attention(q_BHTD: Tensor, k_BKTD: Tensor, window: int) -> Iterator[tuple[int, Tensor]]:
    """Attention weights of every query, part by part: the first query's position, and weights as of `attention_of`."""
    B, H, T, _ = q_BHTD.shape
    step = max(1, MAX_WEIGHTS // (B * H * T))
    for first in range(0, T, step):
        yield first, attention_of(q_BHTD[:, :, first : first + step], k_BKTD, first, window)


def distances(first: int, Q: int, device: torch.device) -> Tensor:
    """[Q, first + Q]: how many tokens before each query, from position `first` on, each key stands."""
    return torch.arange(first, first + Q, device=device)[:, None] - torch.arange(first + Q, device=device)


class _Watching:
    """A `CacheView` of rows that begin with this pass, in which every layer attends as in training."""

    is_prefill = False  # else the model would not show its queries

    def __init__(self, ids_BT: Tensor, look: Look) -> None:
        self.ids_BT, self.look = ids_BT, look

    def positions(self, n: int) -> Tensor:
        return torch.arange(n, device=self.ids_BT.device)[None]

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        ids_BN = self.ids_BT.new_zeros((self.ids_BT.size(0), n))
        return ids_BN, torch.zeros_like(ids_BN, dtype=torch.bool)

    def advance(self, ids_BT: Tensor) -> None:
        pass

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        self.k_BKTD, self.v_BKTD = k_BKTD, v_BKTD

    def attend(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        self.look(layer, q_BHTD, self.k_BKTD, window)
        return attend(q_BHTD, self.k_BKTD, self.v_BKTD, window)
