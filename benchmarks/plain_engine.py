"""A plain eager engine, with which the engine of `aquarat_core/rollout` is compared: samples of a prompt as batch rows.

It is what one writes without much ado, and does nothing twice: the prompt is read once and its keys and values are
copied to all samples, every token is one forward pass over one tensor of keys and values, torch's own kernels attend
and normalize, and `multinomial` draws. Prompts follow one after the other, as in nanochat's engine. It knows models of
the basic form, and ignores stop tokens.

Shapes as in `transformer.py`: B rows, T tokens, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aquarat_core.model.transformer import Attention, Transformer


def norm(x: Tensor) -> Tensor:
    """RMS normalization over the last dimension."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions by `cos` and `sin` [T, 1, D/2]."""
    x1, x2 = x_BTHD.chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


class Cache:
    """Keys and values [L, 2, B, H, T, D] of B rows of equal length."""

    def __init__(self, model: Transformer, rows: int, length: int) -> None:
        config = model.config
        self.kv = torch.empty((config.depth, 2, rows, config.kv_heads, length, config.head_size))
        self.length = 0

    def copied(self, model: Transformer, rows: int, length: int) -> Cache:
        """The same for `rows` rows that continue this one, with room for `length` tokens."""
        wide = Cache(model, rows, length)
        wide.kv[..., : self.length, :] = self.kv[..., : self.length, :]
        wide.length = self.length
        return wide


class PlainEngine:
    """Generates with the weights of a float32 `model` of the basic form. Raises `ValueError` for any other."""

    def __init__(self, model: Transformer) -> None:
        config = model.config
        extras = (config.embedding_taps, config.residual_lambdas, config.smear, config.backout, config.value_embeddings)
        if any(extras) or set(config.windows) != {config.sequence_len}:
            raise ValueError("the plain engine knows models of the basic form alone")
        if model.compute_dtype != torch.float32:
            raise ValueError(f"the plain engine computes in float32, not in {model.compute_dtype}")
        self.model = model

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], samples: int, max_new_tokens: int, seed: int = 0, greedy: bool = False
    ) -> list[list[list[int]]]:
        """The new tokens of each of the `samples` of each prompt, at temperature 1 or, if `greedy`, 0."""
        generator = torch.Generator().manual_seed(seed)
        return [self._samples(list(prompt), samples, max_new_tokens, generator, greedy) for prompt in prompts]

    def _samples(
        self, prompt: list[int], samples: int, budget: int, generator: torch.Generator, greedy: bool
    ) -> list[list[int]]:
        cache = Cache(self.model, 1, len(prompt))
        logits_BV = self._logits(torch.tensor([prompt]), cache).expand(samples, -1)
        cache = cache.copied(self.model, samples, len(prompt) + budget)
        said: list[list[int]] = [[] for _ in range(samples)]
        for step in range(budget):
            if greedy:
                ids_B1 = logits_BV.argmax(dim=-1, keepdim=True)
            else:
                ids_B1 = torch.multinomial(torch.softmax(logits_BV, dim=-1), 1, generator=generator)
            # Whoever waits for an answer sees every token.
            for tokens, token in zip(said, ids_B1[:, 0].tolist(), strict=True):
                tokens.append(token)
            if step + 1 < budget:
                logits_BV = self._logits(ids_B1, cache)
        return said

    def _logits(self, ids_BT: Tensor, cache: Cache) -> Tensor:
        """Logits [B, V] after the last of the tokens, which continue the rows of `cache`."""
        model, (start, T) = self.model, (cache.length, ids_BT.size(1))
        cos, sin = model.cos[start : start + T, None], model.sin[start : start + T, None]
        x = norm(model.embedding(ids_BT))
        for block in model.blocks:
            x = x + self._attention(block.attention, norm(x), cos, sin, cache)
            x = x + block.mlp.down(F.relu(block.mlp.up(norm(x))).square())
        cache.length += T
        raw_BV = model.head(norm(x[:, -1]))[:, : model.vocab_size]
        return model.config.softcap * torch.tanh(raw_BV / model.config.softcap)

    def _attention(self, part: Attention, x_BTC: Tensor, cos: Tensor, sin: Tensor, cache: Cache) -> Tensor:
        B, T, _ = x_BTC.shape
        q, k, v = (linear(x_BTC).view(B, T, -1, part.head_size) for linear in (part.q, part.k, part.v))
        q, k = norm(rotate(q, cos, sin)) * part.qk_scale, norm(rotate(k, cos, sin)) * part.qk_scale
        start, end = cache.length, cache.length + T
        k_BHTD, v_BHTD = cache.kv[part.layer, :, :, :, :end].unbind(0)
        k_BHTD[:, :, start:], v_BHTD[:, :, start:] = k.transpose(1, 2), v.transpose(1, 2)
        grouped = part.n_kv_head < part.n_head
        y_BHTD = F.scaled_dot_product_attention(q.transpose(1, 2), k_BHTD, v_BHTD, is_causal=T > 1, enable_gqa=grouped)
        return part.out(y_BHTD.transpose(1, 2).reshape(B, T, -1))
