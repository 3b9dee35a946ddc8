"""The state of the sampled rows on the device: tensors at fixed addresses, and the decoding step that updates them.

A step touches only these tensors and the KV cache. Everything else that it depends on is in its `DecodeStep`, so the
work of one `DecodeStep` can be captured once and replayed (`replay.py`).

Shapes: R rows, C width, S the maximum number of tokens of a completion, N stop tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aquarat_core.model.kv_cache import Decode, DecodeShape, KVCache
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.random import uniform
from aquarat_core.rollout.sampling import Sampling, sample_head

LOGITS_PER_DRAW = 1 << 18
"""Logits that a CPU computes at once: 1 MB stays in its cache from the head's product to the sampled token."""


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """The host's decisions about a step."""

    shape: DecodeShape
    sampling: Sampling


class DeviceRows:
    """R rows of `kv_cache`, each of which samples one completion at a time until a stop token or its budget."""

    def __init__(self, model: Transformer, kv_cache: KVCache, stop_tokens: Sequence[int]) -> None:
        self.model, self.kv_cache = model, kv_cache
        _, _, R, S = kv_cache.size
        device, C = kv_cache.n_generated_R.device, model.config.dim
        self.hidden_RC = torch.zeros((R, C), dtype=model.compute_dtype, device=device)
        """Hidden state of each row's last token, from which the next token is sampled."""
        self.uniform_RS = torch.zeros((R, S + 1), device=device)
        """The random number of each token of a row, drawn when it starts."""
        self.budget_R = torch.ones(R, dtype=torch.long, device=device)
        """Number of tokens after which a row ends."""
        self.live_R = torch.zeros(R, dtype=torch.bool, device=device)
        self.ended_R = torch.zeros(R, dtype=torch.bool, device=device)
        """Rows that have sampled a stop token."""
        self.stop_tokens_N = torch.tensor(list(stop_tokens), dtype=torch.long, device=device)
        # The extra column is for rows that have used up their budget but are still computed.
        self.tokens_RS = torch.zeros((R, S + 1), dtype=torch.long, device=device)
        self.logp_RS = torch.zeros((R, S + 1), device=device)
        self.state = (
            self.hidden_RC, self.live_R, self.ended_R, self.tokens_RS, self.logp_RS,
            kv_cache.n_generated_R, kv_cache.recent_RN,
        )  # fmt: skip
        """The tensors that a step changes, except keys and values, because repeating a step writes the same ones."""

    def advance(self, step: DecodeStep) -> None:
        """Sample one token for every row and run the model on it."""
        token_R, logp_R = self.sample(step.shape.rows, step.sampling)
        self.append(step, token_R, logp_R)
        self.forward(step, token_R)

    def sample(self, rows: Tensor | int, how: Sampling) -> tuple[Tensor, Tensor]:
        """Tokens [B] and their log-probabilities [B] of B `rows`: of those indices, or of that many from the first."""
        at, model = rows if isinstance(rows, Tensor) else slice(rows), self.model
        raw_BV = model.head(self.hidden_RC[at])
        uniform_B = self.uniform_RS[at].gather(1, self.kv_cache.n_generated_R[at, None])[:, 0]
        at_once = max(1, LOGITS_PER_DRAW // model.vocab_size) if raw_BV.device.type == "cpu" else len(uniform_B)
        return sample_head(raw_BV, model.softcap, how, uniform_B, model.vocab_size, model.config.softcap, at_once)

    def logprobs(self, rows: Tensor) -> Tensor:
        """Log-probabilities [B, V] of the next token of B `rows` at temperature 1."""
        return torch.log_softmax(self.model.logits(self.hidden_RC[rows]), dim=1)

    def append(self, step: DecodeStep, token_R: Tensor, logp_R: Tensor) -> None:
        """Append the new tokens; rows that they end are no longer live."""
        n = step.shape.rows
        n_generated_R, live_R, ended_R = self.kv_cache.n_generated_R[:n], self.live_R[:n], self.ended_R[:n]
        self.tokens_RS[:n].scatter_(1, n_generated_R[:, None], token_R[:, None])
        self.logp_RS[:n].scatter_(1, n_generated_R[:, None], logp_R[:, None])
        n_generated_R += live_R
        stopped_R = live_R & (token_R[:, None] == self.stop_tokens_N).any(dim=1)
        ended_R |= stopped_R
        live_R &= ~(stopped_R | (n_generated_R >= self.budget_R[:n]))

    def forward(self, step: DecodeStep, token_R: Tensor) -> None:
        """Run the model on the new tokens."""
        n = step.shape.rows
        self.hidden_RC[:n] = self.model.hidden(token_R[:, None], Decode(self.kv_cache, step.shape, self.live_R))[:, 0]

    # --- starting and moving rows -----------------------------------------------------------------------------------

    def start(self, rows: Tensor, hidden_BC: Tensor, keys_B: Tensor, budgets_B: Tensor) -> None:
        """Start new completions in `rows`, which the KV cache has already started."""
        self.hidden_RC[rows], self.budget_R[rows] = hidden_BC, budgets_B
        positions_S = torch.arange(self.uniform_RS.size(1), device=keys_B.device)
        self.uniform_RS[rows] = uniform(keys_B[:, None], positions_S)
        self.live_R[rows], self.ended_R[rows] = True, False

    def compact(self, source: Tensor, target: Tensor, n_generated: int) -> None:
        """Copy the rows `source`, which have up to `n_generated` generated tokens, to `target`."""
        self.kv_cache.move_rows(source, target, n_generated)
        decided = (self.uniform_RS, self.budget_R, self.live_R, self.ended_R)
        for state in (self.hidden_RC, *decided, self.tokens_RS, self.logp_RS):
            state[target] = state[source]

    def clear(self, first: int) -> None:
        """Mark all rows from `first` on as dead."""
        self.live_R[first:] = False
        self.kv_cache.clear_rows(first)
