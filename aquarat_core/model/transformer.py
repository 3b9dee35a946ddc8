"""A decoder-only transformer, readable top to bottom.

Rotary positions (Su et al. 2021, arXiv 2104.09864) with normalized queries and keys (Henry et al. 2020, 2010.04245),
pre-norm RMS normalization without gains (Zhang & Sennrich 2019, 1910.07467), squared-ReLU MLP (So et al. 2021,
2109.08668), grouped-query attention (Ainslie et al. 2023, 2305.13245), untied embedding and head, no biases, logits
soft-capped by a tanh (Gemma 2, 2408.00118). Output projections start at zero, so every block starts as the identity.

Each option is one field of the config. All are off in the basic form, that of nanochat in October 2025:

- `embedding_taps`: a short causal convolution over the embeddings (Allen-Zhu 2025, "Canon layers", 2512.17351) lets
  small models bind neighboring tokens, such as an option's letter and its number, before any attention;
- `window_pattern`: layers that attend to a part of the context (Longformer, 2004.05150);
- `value_embeddings`, `residual_lambdas`, `smear`, `backout`: from the modded-nanogpt speedruns (Jordan et al. 2024,
  github.com/KellerJordan/modded-nanogpt), and common in recipes for small models.

Master weights are float32; matrix products run in `compute_dtype`. Between them, CPUs run the fused functions of
`fused.py`; other devices run eager operations, which `torch.compile` fuses.

Shapes: B rows, T tokens, C width, H query heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aquarat_core.config import ModelConfig
from aquarat_core.config.accounting import SMEAR_CHANNELS, VALUE_GATE_CHANNELS, padded_vocabulary
from aquarat_core.model import float8, fused
from aquarat_core.model.attention import Backend, attend, block_mask
from aquarat_core.model.kv_cache import CacheView
from aquarat_core.runtime.memory import huge_zeros

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

VALUE_GATE = 3.0
"""Maximum weight of a value embedding; its gate starts at half of it."""


def norm(x: Tensor) -> Tensor:
    """RMS normalization over the last dimension, without a gain."""
    return fused.rms_norm(x) if fused.applies(x) else F.rms_norm(x, (x.size(-1),), eps=fused.NORM_EPS)


class Linear(nn.Linear):
    """A bias-free linear layer with float32 master weights that computes in its input's type.

    With `float8`, training multiplies in 8 bits.
    """

    float8 = False

    def __init__(self, n_in: int, n_out: int) -> None:
        # torch leaves out the types of `device` and `dtype`.
        super().__init__(n_in, n_out, bias=False)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, input: Tensor) -> Tensor:
        if self.float8 and torch.is_grad_enabled():
            return float8.linear(input, self.weight)
        # Calling `to` takes time even where nothing changes.
        return F.linear(input, self.weight if self.weight.dtype == input.dtype else self.weight.to(input.dtype))


def by_columns(weight: Tensor) -> Tensor:
    """The same matrix, with its columns contiguous where that is faster: in float32 on CPUs.

    There a product with one row takes two thirds of the time or less, and with more rows about the same.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return weight
    n_out, n_in = weight.shape
    return huge_zeros((n_in, n_out), weight.dtype, weight.device).copy_(weight.t()).t()


def rotary_table(length: int, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each [length, head_size / 2]."""
    frequencies = base ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of features by their position's angle; `cos` and `sin` broadcast to [B, T, 1, D/2]."""
    x1, x2 = x_BTHD.chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


def rope_and_norm(x_BTHD: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    """Queries or keys after rotary embedding, RMS normalization and scaling."""
    if fused.applies(x_BTHD):
        return fused.rotary_norm(x_BTHD, cos, sin, scale)
    return scale * norm(rotate(x_BTHD, cos, sin))


class Attention(nn.Module):
    """Causal self-attention with rotary positions, normalized queries and keys, and shared key/value heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.window = layer, config.windows[layer]
        self.n_head, self.n_kv_head, self.head_size = config.n_head, config.kv_heads, config.head_size
        self.qk_scale = config.qk_scale
        self.q = Linear(config.dim, self.n_head * self.head_size)
        self.k = Linear(config.dim, self.n_kv_head * self.head_size)
        self.v = Linear(config.dim, self.n_kv_head * self.head_size)
        self.out = Linear(self.n_head * self.head_size, config.dim)
        self.value_gate = Linear(VALUE_GATE_CHANNELS, self.n_kv_head) if config.has_value_embedding(layer) else None
        self._merged: Tensor | None = None
        self.backend: Backend = "sdpa"
        self.blocks: BlockMask | None = None

    @torch.no_grad()
    def init_mimetic(self) -> None:
        """Copy the weights of each group's first query head to its key head.

        From the start, a token then attends to equal tokens. This is the more useful half of "mimetic initialization"
        (Trockman & Kolter 2023, arXiv 2305.09828): copying circuits of small models form in a fraction of the steps.
        """
        grouped = self.q.weight.view(self.n_kv_head, -1, self.head_size, self.q.weight.size(1))
        self.k.weight.copy_(grouped[:, 0].reshape_as(self.k.weight))

    def merge(self) -> None:
        """Make the weights of `q`, `k` and `v` views of one matrix, so that generation needs one product for them."""
        parts = (self.q, self.k, self.v)
        self._merged = by_columns(torch.cat([part.weight for part in parts]))
        for part, rows in zip(parts, self._merged.split([len(part.weight) for part in parts]), strict=True):
            part.weight.data = rows

    def _merged_weight(self) -> Tensor | None:
        """The matrix of `merge`; None with gradients, or if weights are no longer its views, as in a copied module."""
        if self._merged is None or torch.is_grad_enabled() or self._merged.data_ptr() != self.q.weight.data_ptr():
            return None
        return self._merged

    def _heads(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, T, H, D], keys and values [B, T, K, D]."""
        B, T, _ = x_BTC.shape
        H, K = self.n_head, self.n_kv_head
        if (merged := self._merged_weight()) is not None:
            heads = F.linear(x_BTC, merged).view(B, T, H + 2 * K, self.head_size)
            qk, v = heads.split_with_sizes([H + K, K], dim=2)
            q, k = rope_and_norm(qk, *rotary, self.qk_scale).split_with_sizes([H, K], dim=2)
            return q, k, v
        q, k, v = (part(x_BTC).view(B, T, -1, self.head_size) for part in (self.q, self.k, self.v))
        q, k = (rope_and_norm(x, *rotary, self.qk_scale) for x in (q, k))
        return q, k, v

    def forward(
        self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor], value_BTC: Tensor | None, cache: CacheView | None
    ) -> Tensor:
        B, T, _ = x_BTC.shape
        q, k, v = self._heads(x_BTC, rotary)
        if self.value_gate is not None and value_BTC is not None:
            gate_BTK = VALUE_GATE * torch.sigmoid(self.value_gate(x_BTC[..., :VALUE_GATE_CHANNELS]))
            v = v + gate_BTK[..., None] * value_BTC.to(v.dtype).view_as(v)
        q_BHTD, k_BKTD, v_BKTD = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            cache.write(self.layer, k_BKTD, v_BKTD)
        if cache is None:
            y_BHTD = attend(q_BHTD, k_BKTD, v_BKTD, self.window, self.backend, self.blocks)
        elif cache.is_prefill:
            y_BHTD = attend(q_BHTD, k_BKTD, v_BKTD, self.window)
        else:
            y_BHTD = cache.attend(self.layer, q_BHTD, self.window)
        return self.out(y_BHTD.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """Two matrices with a squared ReLU between them; the hidden layer is four times as wide."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.dim, 4 * config.dim)
        self.down = Linear(4 * config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        if fused.applies(x) and torch.is_grad_enabled() and not self.up.float8:
            return fused.squared_relu_mlp(x, self.up.weight.to(x.dtype), self.down.weight.to(x.dtype))
        if not torch.is_grad_enabled():  # intermediate values are not needed
            r = self.up(x).relu_()
            return self.down(r.mul_(r))
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """Attention and MLP, each applied to the normalized residual stream and added to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], value_BTC: Tensor | None, cache: CacheView | None
    ) -> Tensor:
        x = x + self.attention(norm(x), rotary, value_BTC, cache)
        return x + self.mlp(norm(x))


class Transformer(nn.Module):
    """The language model: token ids in, logits or losses out."""

    # torch does not declare the types in its lists and dicts of modules, nor the type of a buffer.
    blocks: Sequence[Block]
    value_embeddings: Mapping[str, nn.Embedding]
    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, vocab_size: int, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.vocab_size, self.compute_dtype = config, vocab_size, compute_dtype
        padded = padded_vocabulary(vocab_size)
        self.embedding = nn.Embedding(padded, config.dim)
        self.taps = nn.Parameter(torch.empty(config.embedding_taps, config.dim))
        blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.blocks = cast("Sequence[Block]", blocks)
        self.head = Linear(config.dim, padded)
        tables = {
            str(i): nn.Embedding(padded, config.kv_heads * config.head_size)
            for i in range(config.depth)
            if config.has_value_embedding(i)
        }
        self.value_embeddings = cast("Mapping[str, nn.Embedding]", nn.ModuleDict(tables))
        if config.residual_lambdas:
            self.residual_lambdas = nn.Parameter(torch.empty(config.depth))
            self.embedding_lambdas = nn.Parameter(torch.empty(config.depth))
        if config.smear:
            self.smear_gate = Linear(SMEAR_CHANNELS, 1)
            self.smear_lambda = nn.Parameter(torch.empty(1))
        if config.backout:
            self.backout_lambda = nn.Parameter(torch.empty(1))
        cos, sin = rotary_table(config.sequence_len, config.head_size, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Initialize the weights from `generator`: the same generator state gives the same model on any device."""
        config, bound = self.config, math.sqrt(3.0 / self.config.dim)
        self.embedding.weight.normal_(0.0, 1.0, generator=generator)
        self.taps.uniform_(-1.0, 1.0, generator=generator)
        self.head.weight.normal_(0.0, 0.001, generator=generator)
        for block in self.blocks:
            for matrix in (block.attention.q, block.attention.k, block.attention.v, block.mlp.up):
                matrix.weight.uniform_(-bound, bound, generator=generator)
            block.attention.out.weight.zero_()
            block.mlp.down.weight.zero_()
            if self.config.mimetic_init:
                block.attention.init_mimetic()
            if block.attention.value_gate is not None:
                block.attention.value_gate.weight.zero_()
        for table in self.value_embeddings.values():
            table.weight.uniform_(-bound, bound, generator=generator)
        if config.residual_lambdas:
            self.residual_lambdas.copy_(torch.linspace(1.15, 1.05, config.depth))
            self.embedding_lambdas.copy_(torch.linspace(0.20, 0.05, config.depth))
        if config.smear:
            self.smear_gate.weight.zero_()
            self.smear_lambda.zero_()
        if config.backout:
            self.backout_lambda.fill_(0.2)

    def set_kernels(self, backend: Backend, float8_products: bool = False, deterministic: bool = False) -> None:
        """Select the kernels: attention by `backend`, and with `float8_products` 8-bit products in the blocks.

        `backend` does not affect attention to a KV cache. With `deterministic`, `flex` also computes layers without a
        window.
        """
        T, device = self.config.sequence_len, self.embedding.weight.device
        for block in self.blocks:
            attention = block.attention
            flex = backend == "flex" and (attention.window < T or deterministic)
            attention.backend, attention.blocks = backend, block_mask(T, attention.window, device) if flex else None
            for matrix in (attention.q, attention.k, attention.v, attention.out, block.mlp.up, block.mlp.down):
                matrix.float8 = float8_products and float8.fits(matrix.weight)

    @torch.no_grad()
    def prepare_generation(self) -> None:
        """Store the matrices in the compute type, laid out in memory as generation reads them.

        Only matrices: embeddings are looked up, not multiplied, and keep their precision. Values can be replaced in
        place later.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                module.weight.data = by_columns(module.weight.to(self.compute_dtype))
        for block in self.blocks:
            block.attention.merge()

    def hidden(self, ids_BT: Tensor, cache: CacheView | None = None) -> Tensor:
        """The normalized residual stream [B, T, C] after the last block; with a cache, the tokens continue its rows."""
        x = first = self._smear(norm(self._embed(ids_BT, cache).to(self.compute_dtype)), ids_BT, cache)
        rotary = self._rotary(ids_BT.size(1), cache)
        halfway = x
        for i, block in enumerate(self.blocks):
            if self.config.residual_lambdas:
                x = self.residual_lambdas[i].to(x.dtype) * x + self.embedding_lambdas[i].to(x.dtype) * first
            value_BTC = self.value_embeddings[str(i)](ids_BT) if self.config.has_value_embedding(i) else None
            x = block(x, rotary, value_BTC, cache)
            if i == self.config.depth // 2:
                halfway = x
        if cache is not None:
            cache.advance(ids_BT)
        if self.config.backout:
            x = x - self.backout_lambda.to(x.dtype) * halfway
        return norm(x)

    def _rotary(self, T: int, cache: CacheView | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the tokens' positions, in the compute type."""
        if cache is not None:
            positions_BT = cache.positions(T)
            cos, sin = self.cos[positions_BT, None, :], self.sin[positions_BT, None, :]
        elif self.cos.size(0) < T:
            raise ValueError(f"{T} tokens do not fit the model's sequence_len of {self.cos.size(0)}")
        else:
            cos, sin = self.cos[None, :T, None], self.sin[None, :T, None]
        return cos.to(self.compute_dtype), sin.to(self.compute_dtype)

    def _embed(self, ids_BT: Tensor, cache: CacheView | None) -> Tensor:
        """Float32 embeddings [B, T, C]; with taps, those of the preceding tokens are added, scaled per channel."""
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

    def _smear(self, x_BTC: Tensor, ids_BT: Tensor, cache: CacheView | None) -> Tensor:
        """The normalized embeddings [B, T, C]; with `smear`, each has a gated share of the previous one added."""
        if not self.config.smear:
            return x_BTC
        before_B1C = torch.zeros_like(x_BTC[:, :1])
        if cache is not None:
            ids_B1, known_B1 = cache.ids_before(1)
            before_B1C = norm(self.embedding(ids_B1).to(x_BTC.dtype)) * known_B1[..., None]
        before_BTC = torch.cat([before_B1C, x_BTC[:, :-1]], dim=1)
        gate_BT1 = self.smear_lambda.to(x_BTC.dtype) * torch.sigmoid(self.smear_gate(x_BTC[..., :SMEAR_CHANNELS]))
        return x_BTC + gate_BT1 * before_BTC

    def logits(self, hidden: Tensor) -> Tensor:
        """Soft-capped float32 logits [..., V] of hidden states [..., C]."""
        return self.softcap(self.head(hidden))

    def softcap(self, raw: Tensor) -> Tensor:
        """Soft-capped float32 logits [..., V] from the head's outputs [..., padded V]."""
        raw, cap = raw[..., : self.vocab_size].float(), self.config.softcap
        if not torch.is_grad_enabled():  # intermediate values are not needed
            return raw.div_(cap).tanh_().mul_(cap)
        return cap * torch.tanh(raw / cap)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Float32 logits [B, T, V] of every position."""
        return self.logits(self.hidden(ids_BT))

    def token_losses(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Cross-entropy in nats of every target [B, T]; 0 for negative targets."""
        hidden, targets = self.hidden(ids_BT).flatten(0, 1), targets_BT.flatten()
        if torch.is_grad_enabled():
            losses = F.cross_entropy(self.logits(hidden), targets, ignore_index=-1, reduction="none")
        else:
            head = self.head.weight.to(hidden.dtype)
            losses = fused.cross_entropies(hidden, head, targets, self.vocab_size, self.config.softcap)
        return losses.view_as(targets_BT)

    def loss_sum(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Sum of `token_losses` for training: neither all logits nor their gradient are ever in memory at once."""
        hidden, head = self.hidden(ids_BT).flatten(0, 1), self.head.weight.to(self.compute_dtype)
        return fused.cross_entropy_sum(hidden, head, targets_BT.flatten(), self.vocab_size, self.config.softcap)
