"""Validation loss and bits per byte of packed rows."""

from __future__ import annotations

import math

import numpy as np
import torch

from aquarat_core.data.rows import Rows
from aquarat_core.data.tensors import from_numpy
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World


@torch.no_grad()
def score_rows(
    model: Transformer, rows: Rows, limit: int, micro_batch_rows: int, token_bytes: np.ndarray, world: World
) -> dict[str, float]:
    """Mean loss in nats per token and bits per byte over the first `limit` rows, summed over all ranks.

    Bits per byte is the sum of the targets' nats divided by ln 2 times the number of bytes they represent. Special
    tokens represent no bytes, so neither sum includes them: the metric does not depend on the vocabulary.
    """
    n_bytes = from_numpy(token_bytes.astype(np.int64)).to(world.device)
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)
    mine = np.arange(min(limit, len(rows)))[world.rank :: world.size]
    for start in range(0, len(mine), micro_batch_rows):
        inputs, targets = rows.tensors(mine[start : start + micro_batch_rows], world.device)
        losses = model.token_losses(inputs, targets).double()
        lengths = n_bytes[targets.clamp(min=0)] * (targets >= 0)
        counted = lengths > 0
        sums += torch.stack([losses.sum(), (targets >= 0).sum(), losses[counted].sum(), lengths.sum()])
    nats, tokens, byte_nats, total_bytes = world.totals(sums)
    scores = {"val/loss": nats / max(tokens, 1)}
    if total_bytes:
        scores["val/bpb"] = byte_nats / (math.log(2) * total_bytes)
    return scores
