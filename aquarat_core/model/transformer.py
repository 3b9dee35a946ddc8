"""A decoder-only transformer, readable top to bottom.

Rotary positions (Su et al. 2021, arXiv 2104.09864) with normalised queries and keys (Henry et al. 2020, 2010.04245),
pre-norm RMS normalisation without gains (Zhang & Sennrich 2019, 1910.07467), squared-ReLU MLP (So et al. 2021,
2109.08668), grouped-query attention (Ainslie et al. 2023, 2305.13245), untied embedding and head, no biases, logits
capped by a tanh (Gemma 2, 2408.00118). Output projections start at zero, so every block starts as the identity. As an
option, a short causal convolution over the embeddings (Allen-Zhu 2025, "Canon layers", arXiv 2512.17351) lets small
models bind neighbouring tokens, such as an option's letter and its number, before any attention.

Masters are float32; the matrix products run in the type of `compute_dtype`.

Shapes: B rows, T tokens, C width, H query heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aquarat_core.config import ModelConfig
from aquarat_core.model.accounting import padded_vocabulary
from aquarat_core.model.kv_cache import KVCache

QK_SCALE = 1.2
"""Normalised queries and keys are scaled up by this each: without it attention cannot become sharp."""


def norm(x: Tensor) -> Tensor:
    """RMS normalisation over the last dimension, without a gain."""
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """A bias-free matrix product in the type of its input, from a float32 master."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotary_table(length: int, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each [length, head_size / 2]."""
    frequencies = base ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of features by their position's angle; `cos` and `sin` broadcast to [B, T, 1, D/2]."""
    x1, x2 = x_BTHD.chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


def attend(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of T queries to S keys, [B, H, T, D]; without a mask it is causal and S = T."""
    T, gqa = q_BHTD.size(2), q_BHTD.size(1) != k_BKSD.size(1)
    # torch's fused kernel is slow on CPUs in bfloat16, backward above all: up to this length plain products win.
    if mask is None and q_BHTD.device.type == "cpu" and q_BHTD.dtype == torch.bfloat16 and T <= 512 and not gqa:
        scores = q_BHTD @ k_BKSD.transpose(2, 3) * q_BHTD.size(3) ** -0.5
        future = torch.ones((T, T), dtype=torch.bool).triu(1)
        return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1) @ v_BKSD
    return F.scaled_dot_product_attention(
        q_BHTD, k_BKSD, v_BKSD, attn_mask=mask, is_causal=mask is None, enable_gqa=gqa
    )


class Attention(nn.Module):
    """Causal self-attention with rotary positions, normalised queries and keys, and shared key/value heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head, self.n_kv_head, self.head_size = config.n_head, config.kv_heads, config.head_size
        self.q = Linear(config.dim, self.n_head * self.head_size)
        self.k = Linear(config.dim, self.n_kv_head * self.head_size)
        self.v = Linear(config.dim, self.n_kv_head * self.head_size)
        self.out = Linear(self.n_head * self.head_size, config.dim)

    @torch.no_grad()
    def start_matching(self) -> None:
        """Give each key head the weights of its group's first query head.

        A token then attends to its equals from the start, the better half of "mimetic initialization" (Trockman &
        Kolter 2023, arXiv 2305.09828). Copying circuits of small models form in a fraction of the steps.
        """
        grouped = self.q.weight.view(self.n_kv_head, -1, self.head_size, self.q.weight.size(1))
        self.k.weight.copy_(grouped[:, 0].reshape_as(self.k.weight))

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None) -> Tensor:
        B, T, _ = x_BTC.shape
        q = self.q(x_BTC).view(B, T, self.n_head, self.head_size)
        k = self.k(x_BTC).view(B, T, self.n_kv_head, self.head_size)
        v = self.v(x_BTC).view(B, T, self.n_kv_head, self.head_size)
        q, k = QK_SCALE * norm(rotate(q, *rotary)), QK_SCALE * norm(rotate(k, *rotary))
        q_BHTD, k_BKTD, v_BKTD = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mask = None
        if cache is not None:
            k_BKTD, v_BKTD, mask = cache.append(self.layer, k_BKTD, v_BKTD)
        y_BHTD = attend(q_BHTD, k_BKTD, v_BKTD, mask)
        return self.out(y_BHTD.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """Two matrices with a squared ReLU between, four times as wide inside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.dim, 4 * config.dim)
        self.down = Linear(4 * config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """Attention and MLP, each on the normalised residual stream and added back to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None) -> Tensor:
        x = x + self.attention(norm(x), rotary, cache)
        return x + self.mlp(norm(x))


class Transformer(nn.Module):
    """The language model: token ids in, logits or per-token losses out."""

    def __init__(self, config: ModelConfig, vocab_size: int, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.vocab_size, self.compute_dtype = config, vocab_size, compute_dtype
        padded = padded_vocabulary(vocab_size)
        self.embedding = nn.Embedding(padded, config.dim)
        self.taps = nn.Parameter(torch.empty(config.embedding_taps, config.dim))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.head = Linear(config.dim, padded)
        cos, sin = rotary_table(config.sequence_len, config.head_size, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Fill the weights from `generator`: the same generator state gives the same model on any device."""
        bound = math.sqrt(3.0 / self.config.dim)
        self.embedding.weight.normal_(0.0, 1.0, generator=generator)
        self.taps.uniform_(-1.0, 1.0, generator=generator)
        self.head.weight.normal_(0.0, 0.001, generator=generator)
        for block in self.blocks:
            for matrix in (block.attention.q, block.attention.k, block.attention.v, block.mlp.up):
                matrix.weight.uniform_(-bound, bound, generator=generator)
            block.attention.out.weight.zero_()
            block.mlp.down.weight.zero_()
            if self.config.mimetic_init:
                block.attention.start_matching()

    def hidden(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """The normalised last residual stream [B, T, C]; with a cache, the tokens continue its rows."""
        T = ids_BT.size(1)
        if cache is None:
            if self.cos.size(0) < T:
                raise ValueError(f"{T} tokens do not fit the model's sequence_len of {self.cos.size(0)}")
            rotary = (self.cos[None, :T, None], self.sin[None, :T, None])
        else:
            positions_BT = cache.positions(T)
            rotary = (self.cos[positions_BT, None, :], self.sin[positions_BT, None, :])
        rotary = (rotary[0].to(self.compute_dtype), rotary[1].to(self.compute_dtype))
        x = norm(self._embed(ids_BT, cache).to(self.compute_dtype))
        for block in self.blocks:
            x = block(x, rotary, cache)
        if cache is not None:
            cache.advance(ids_BT)
        return norm(x)

    def _embed(self, ids_BT: Tensor, cache: KVCache | None) -> Tensor:
        """Float32 embeddings [B, T, C]; with taps, those of the tokens just before are added, scaled per channel."""
        x_BTC = self.embedding(ids_BT)
        n, T = len(self.taps), ids_BT.size(1)
        if n == 0:
            return x_BTC
        before_BNC = x_BTC.new_zeros(x_BTC.size(0), n, x_BTC.size(2))
        if cache is not None:
            ids_BN, known_BN = cache.ids_before(n)
            before_BNC = self.embedding(ids_BN) * known_BN[..., None]
        padded = torch.cat([before_BNC, x_BTC], dim=1)
        for back in range(1, n + 1):
            x_BTC = x_BTC + self.taps[back - 1] * padded[:, n - back : n - back + T]
        return x_BTC

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., V] of hidden states [..., C], soft-capped."""
        raw = self.head(hidden)[..., : self.vocab_size].float()
        return self.config.softcap * torch.tanh(raw / self.config.softcap)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Float32 logits [B, T, V] of every position."""
        return self.logits(self.hidden(ids_BT))

    def token_losses(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Cross-entropy in nats of every target [B, T]; where the target is negative, 0."""
        logits = self.forward(ids_BT)
        losses = F.cross_entropy(logits.flatten(0, 1), targets_BT.flatten(), ignore_index=-1, reduction="none")
        return losses.view_as(targets_BT)
