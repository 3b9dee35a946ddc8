"""Induction: does the model, at a token it has seen before, look at what came after it then?

It is measured on tokens without meaning (Olsson et al. 2022, arXiv 2209.11895): random ones, all different, said twice.
Only who looks back can predict the second half, so its loss says whether the model copies, and attention says which
heads do it.

    <|bos|> k f x c | k f x c        from the second f: induction looks at the first x, matching at the first f

Shapes: S sequences, n tokens of a half, T = 1 + 2n, H query heads, K key/value heads, D head size, Q = n queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from aquarat_core.data.rows import IGNORED
from aquarat_core.data.tensors import from_numpy
from aquarat_core.evaluation.interpret.numbers import rounded
from aquarat_core.evaluation.interpret.watching import attention_of, watch
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.tokenizer import Tokenizer


class Induction(TypedDict):
    """Shares of the attention of the second half's tokens, [layers][heads], and the losses of both halves."""

    sequences: int
    repeated_tokens: int
    """Random tokens in each half."""
    induction: list[list[float]]
    """To the token after the earlier occurrence: the one to be said next."""
    matching: list[list[float]]
    """To the earlier occurrence itself."""
    previous: list[list[float]]
    """To the token just before."""
    uniform: list[float]
    """[layers] What each of these is for a head that attends to all it sees alike."""
    loss_first: float
    """Nats per token of the first half, which cannot be predicted. Here and in the second half the first token is left
    out: nothing says when the repetition begins."""
    loss_second: float


def plain_tokens(tokenizer: Tokenizer) -> list[int]:
    """The ids of tokens that are text which can be seen: no special tokens, no spaces alone, no parts of characters."""
    special = set(tokenizer.special_ids.values())
    return [i for i in range(tokenizer.vocab_size) if i not in special and _is_plain(tokenizer.token(i))]


def _is_plain(token: bytes) -> bool:
    try:
        text = token.decode().strip(" ")
    except UnicodeDecodeError:
        return False
    return bool(text) and text.isprintable()


def repeated_sequences(plain: Sequence[int], bos: int, sequences: int, n: int, seed: int) -> Tensor:
    """[S, 1 + 2n]: `bos`, then n different ids of `plain`, twice. The i-th sequence depends on (seed, i) alone."""
    halves = [np.random.default_rng((seed, i)).permutation(plain)[:n] for i in range(sequences)]
    return from_numpy(np.array([[bos, *half, *half] for half in halves], dtype=np.int64))


@torch.no_grad()
def induction_scores(model: Transformer, ids_ST: Tensor) -> Induction:
    """Where the tokens of the second half look, and how well both halves are predicted."""
    n = (ids_ST.size(1) - 1) // 2
    ids_ST = ids_ST.to(model.cos.device)
    scores_LMH: list[Tensor] = []

    def look(_layer: int, q_SHTD: Tensor, k_SKTD: Tensor, window: int) -> None:
        a_SHQT = attention_of(q_SHTD[:, :, n + 1 :], k_SKTD, n + 1, window)
        # Query j of the second half repeats token 1 + j.
        shares = [a_SHQT.diagonal(offset, dim1=2, dim2=3).mean(dim=(0, 2)) for offset in (2, 1, n)]
        scores_LMH.append(torch.stack(shares))

    watch(model, ids_ST, look)
    induction, matching, previous = torch.stack(scores_LMH, dim=1).unbind()
    loss_first, loss_second = _losses(model, ids_ST, n)
    return Induction(
        sequences=len(ids_ST),
        repeated_tokens=n,
        induction=rounded(induction),
        matching=rounded(matching),
        previous=rounded(previous),
        uniform=[round(_uniform(n, window), 6) for window in model.config.windows],
        loss_first=loss_first,
        loss_second=loss_second,
    )


def _losses(model: Transformer, ids_ST: Tensor, n: int) -> tuple[float, float]:
    """Nats per token of the two halves, without the first token of each."""
    targets_ST = ids_ST[:, 1:].clone()
    targets_ST[:, [0, n]] = IGNORED
    losses_ST = model.token_losses(ids_ST[:, :-1], targets_ST).double()
    first, second = losses_ST[:, 1:n].mean(), losses_ST[:, n + 1 :].mean()
    both: list[float] = rounded(torch.stack([first, second]))
    return both[0], both[1]


def _uniform(n: int, window: int) -> float:
    return float(np.mean([1 / min(n + 2 + j, window) for j in range(n)]))
