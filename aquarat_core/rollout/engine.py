"""The batched generation engine: many prompts times many samples, ragged lengths, one prefill per prompt.

Rows that have ended leave the batch in blocks, so late rows are not paid for by early ones. The engine computes with
its own copy of the weights in the compute type, refreshed after each update.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aquarat_core.model.kv_cache import KVCache
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.sampling import sample

LOOK_EVERY = 8
"""Tokens between two looks of the host at which rows have ended."""
COMPACT_BELOW = 0.75
"""Share of live rows below which the ended ones are dropped from the batch."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation; the stop token, when it came, is the last of `tokens`."""

    tokens: list[int]
    logprobs: list[float]
    """Of each token, at the sampling temperature."""
    ended: bool
    """True when the stop token was sampled, False when the row ran out of tokens."""

    @property
    def said(self) -> list[int]:
        """The tokens without the stop token."""
        return self.tokens[:-1] if self.ended else self.tokens


class Engine:
    """Generates from one model until `stop_token` or the token budget."""

    def __init__(self, model: Transformer, stop_token: int) -> None:
        self.stop_token = stop_token
        self.model = copy.deepcopy(model).eval()
        # Only the matrices: embeddings are looked up, not multiplied, and stay as exact as the trainer's.
        for module in self.model.modules():
            if isinstance(module, nn.Linear):
                module.to(model.compute_dtype)

    @torch.no_grad()
    def refresh(self, model: Transformer) -> None:
        """Take over the weights of `model`."""
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        max_rows: int = 1024,
    ) -> list[list[Completion]]:
        """Completions of each prompt, one for each of its keys (int64 seeds); all prompts have as many keys.

        A completion is the same whatever else is in the batch. Raises `ValueError` when a prompt and the budget do
        not fit the model's sequence length.
        """
        per_prompt = len(keys[0])
        chunk = max(1, max_rows // per_prompt)
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        out: list[list[Completion]] = [[] for _ in prompts]
        for start in range(0, len(prompts), chunk):
            part = by_length[start : start + chunk]
            flat_keys = [key for i in part for key in keys[i]]
            rows = self._run([prompts[i] for i in part], per_prompt, flat_keys, max_new_tokens, temperature)
            for n, i in enumerate(part):
                out[i] = rows[n * per_prompt : (n + 1) * per_prompt]
        return out

    def _run(
        self, prompts: list[Sequence[int]], samples: int, keys: list[int], budget: int, temperature: float
    ) -> list[Completion]:
        device = self.model.cos.device
        keys_B = torch.tensor(keys, dtype=torch.long, device=device)
        logits_BV, cache = self._prefill(prompts, samples, budget)
        B = len(keys)
        tokens_BN = torch.zeros((B, budget), dtype=torch.long, device=device)
        logp_BN = torch.zeros((B, budget), device=device)
        lengths_B = torch.full((B,), budget, dtype=torch.long, device=device)
        ended_B = torch.zeros(B, dtype=torch.bool, device=device)
        live = torch.arange(B, device=device)  # rows of the batch, as indices into the outputs
        for position in range(budget):
            token, logp = sample(logits_BV, temperature, keys_B[live], position)
            tokens_BN[live, position], logp_BN[live, position] = token, logp
            stopped = (token == self.stop_token) & ~ended_B[live]
            lengths_B[live[stopped]] = position + 1
            ended_B[live] |= stopped
            if position + 1 == budget:
                break
            if (position + 1) % LOOK_EVERY == 0:
                going = ~ended_B[live]
                n_going = int(going.sum())
                if n_going == 0:
                    break
                if n_going < COMPACT_BELOW * len(live):
                    cache.keep(going.nonzero().squeeze(1))
                    live, token = live[going], token[going]
            logits_BV = self.model.logits(self.model.hidden(token[:, None], cache)[:, 0])
        rows = zip(tokens_BN.tolist(), logp_BN.tolist(), lengths_B.tolist(), ended_B.tolist(), strict=True)
        return [Completion(tokens[:n], logps[:n], ended) for tokens, logps, n, ended in rows]

    def _prefill(self, prompts: list[Sequence[int]], samples: int, budget: int) -> tuple[Tensor, KVCache]:
        """Read each prompt once; returns logits [P x samples, V] of the first new token, and the cache."""
        config, device = self.model.config, self.model.cos.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        longest = int(lengths.max())
        if longest + budget > config.sequence_len:
            raise ValueError(
                f"a prompt of {longest} tokens and {budget} new ones do not fit the model's sequence_len of "
                f"{config.sequence_len}: lower max_new_tokens or train with longer sequences"
            )
        padded = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = torch.as_tensor(prompt)
        cache = KVCache(config, len(prompts), longest, self.model.compute_dtype, device)
        hidden_PTC = self.model.hidden(padded.to(device), cache)
        cache.truncate(lengths)
        last_PC = hidden_PTC[torch.arange(len(prompts), device=device), lengths - 1]
        logits_PV = self.model.logits(last_PC)
        return logits_PV.repeat_interleave(samples, dim=0), cache.repeat(samples, longest + budget)
