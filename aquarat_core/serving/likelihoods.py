"""How likely a model finds the tokens of a text.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aquarat_core.api import Model
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rollout.batch import Likelihood

AT_ONCE = 64
"""Positions whose logits are in memory at a time."""


@torch.no_grad()
def likelihoods_of(model: Model, ids: Sequence[int], alternatives: int) -> list[Likelihood | None]:
    """How likely each token of a text is after those before it; None for the first."""
    row = torch.tensor([ids], device=model.device)
    hidden_TC = model.transformer.hidden(row)[0, :-1]
    found: list[Likelihood | None] = [None]
    for start in range(0, len(hidden_TC), AT_ONCE):
        logp_TV = torch.log_softmax(model.transformer.logits(hidden_TC[start : start + AT_ONCE]).float(), dim=1)
        given = row[0, start + 1 : start + 1 + len(logp_TV)]
        own = to_list(logp_TV.gather(1, given[:, None])[:, 0])
        top = logp_TV.topk(min(alternatives, logp_TV.size(1)), dim=1)
        rows = zip(own, to_list(top.indices), to_list(top.values), strict=True)
        found += [Likelihood(logp, tuple(zip(tokens, logps, strict=True))) for logp, tokens, logps in rows]
    return found
