"""The device's side of the rows being sampled: tensors that stay where they are, and the step that goes over them.

A step touches these tensors and the key and value memory, and nothing of the host: all else that it depends on stands
in a `Step`. So what one `Step` does can be recorded once and replayed (`replay.py`).

Shapes: R rows, C width, S tokens of a completion at most, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aquarat_core.model.kv_cache import Decode, DecodeShape, KVCache
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.sampling import Sampling, sample_head

LOGITS_PER_DRAW = 1 << 18
"""Logits on a CPU at once: 1 MB stays in its cache from the head's product to the token drawn."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the host decides of a step."""

    shape: DecodeShape
    sampling: Sampling
    budget: int
    """Tokens after which a row ends."""


class Rows:
    """R rows of `memory`, each of which samples one completion at a time until `stop_token` or the budget."""

    def __init__(self, model: Transformer, kv_cache: KVCache, stop_token: int) -> None:
        self.model, self.kv_cache, self.stop_token = model, kv_cache, stop_token
        _, _, R, S = kv_cache.size
        device, C = kv_cache.n_generated_R.device, model.config.dim
        self.hidden_RC = torch.zeros((R, C), dtype=model.compute_dtype, device=device)
        """Of each row's last token; what the next one is drawn from."""
        self.keys_R = torch.zeros(R, dtype=torch.long, device=device)
        self.live_R = torch.zeros(R, dtype=torch.bool, device=device)
        self.ended_R = torch.zeros(R, dtype=torch.bool, device=device)
        """Rows that have said the stop token."""
        # One column more: rows that have used up their budget are computed along and write there.
        self.tokens_RS = torch.zeros((R, S + 1), dtype=torch.long, device=device)
        self.logp_RS = torch.zeros((R, S + 1), device=device)
        self.state = (
            self.hidden_RC, self.live_R, self.ended_R, self.tokens_RS, self.logp_RS,
            kv_cache.n_generated_R, kv_cache.recent_RN,
        )  # fmt: skip
        """What a step changes, but for the memory's keys and values: doing a step again writes the same there."""

    def advance(self, step: Step) -> None:
        """Draw one token for every row and read it."""
        token_R, logp_R = self.draw(step)
        self.keep(step, token_R, logp_R)
        self.read(step, token_R)

    def draw(self, step: Step) -> tuple[Tensor, Tensor]:
        """Tokens [R] and log-probabilities [R]."""
        n, model = step.shape.rows, self.model
        raw_RV = model.head(self.hidden_RC[:n])
        keys_R, n_generated_R = self.keys_R[:n], self.kv_cache.n_generated_R[:n]
        at_once = max(1, LOGITS_PER_DRAW // model.vocab_size) if raw_RV.device.type == "cpu" else n
        return sample_head(
            raw_RV, model.softcap, step.sampling, keys_R, n_generated_R, model.vocab_size, model.config.softcap, at_once
        )

    def keep(self, step: Step, token_R: Tensor, logp_R: Tensor) -> None:
        """Write the newest tokens down; rows that they end are live no longer."""
        n = step.shape.rows
        n_generated_R, live_R, ended_R = self.kv_cache.n_generated_R[:n], self.live_R[:n], self.ended_R[:n]
        self.tokens_RS[:n].scatter_(1, n_generated_R[:, None], token_R[:, None])
        self.logp_RS[:n].scatter_(1, n_generated_R[:, None], logp_R[:, None])
        n_generated_R += live_R
        stopped_R = live_R & (token_R == self.stop_token)
        ended_R |= stopped_R
        live_R &= ~(stopped_R | (n_generated_R >= step.budget))

    def read(self, step: Step, token_R: Tensor) -> None:
        """Let the model read the newest tokens."""
        n = step.shape.rows
        self.hidden_RC[:n] = self.model.hidden(token_R[:, None], Decode(self.kv_cache, step.shape, self.live_R))[:, 0]

    # --- where rows come and go -------------------------------------------------------------------------------------

    def start(self, rows: Tensor, hidden_RC: Tensor, keys_R: Tensor) -> None:
        """Begin new completions in `rows`, which the memory has placed."""
        self.hidden_RC[rows], self.keys_R[rows] = hidden_RC, keys_R
        self.live_R[rows], self.ended_R[rows] = True, False

    def move(self, source: Tensor, target: Tensor, n_generated: int) -> None:
        """Copy the rows `source`, up to `n_generated` tokens old, to the places `target`."""
        self.kv_cache.move_rows(source, target, n_generated)
        for state in (self.hidden_RC, self.keys_R, self.live_R, self.ended_R, self.tokens_RS, self.logp_RS):
            state[target] = state[source]

    def clear(self, first: int) -> None:
        """No row from `first` on is live."""
        self.live_R[first:] = False
        self.kv_cache.clear_rows(first)
