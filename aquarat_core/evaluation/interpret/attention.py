"""How spread out attention is and how far it reaches, by layer and head; and single heads' attention, token by token.

Entropy is given as a share of its largest value: a query that sees t tokens, windows counted in, can have ln t nats,
when it attends to all of them alike. 0 is a head that looks at one token, 1 a head that averages over all. It was used
to watch training by Zhai et al. (2023, arXiv 2303.06296); heads that look at the first token only, and so do nothing,
are described by Xiao et al. (2023, 2309.17453).

Shapes: L layers, B rows, H query heads, K key/value heads, T tokens, Q queries, D head size, M measures, P kinds of
position (all but the first, and the last).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from aquarat_core.data.rows import pad
from aquarat_core.evaluation.interpret.batch import Context, token_texts
from aquarat_core.evaluation.interpret.numbers import rounded
from aquarat_core.evaluation.interpret.watching import all_attention, attention_from, distances, watch
from aquarat_core.model.transformer import Transformer
from aquarat_core.model.typed_torch import entropy_terms
from aquarat_core.text.tokenizer import Tokenizer

ROWS = 8
"""Contexts in one pass."""
MAX_TOKENS_OF_MAP = 256
MAP_DIGITS = 4


class Attention(TypedDict):
    """Means over the questions, each [layers][heads]; `_at_answer` is of the last token of each context alone, the
    others are means over all its tokens but the first, which has nothing to choose from."""

    entropy: list[list[float]]
    """As a share of ln t, where t is the number of tokens seen."""
    entropy_at_answer: list[list[float]]
    distance: list[list[float]]
    """Tokens between the query and what it attends to, weighted by attention; 0 is the token itself."""
    distance_at_answer: list[list[float]]
    first_token: list[list[float]]
    """Share of the attention that goes to the first token of the text."""
    first_token_at_answer: list[list[float]]


class HeadMap(TypedDict):
    """Where each head looks from the place of the answer in one question."""

    id: str
    tokens: list[str]
    """The text of each token, at most `MAX_TOKENS_OF_MAP` of them; the last is the one that looks."""
    cut: int
    """Tokens of the context before the first of `tokens`."""
    weights: list[list[list[float]]]
    """[layers][heads][tokens] attention weights; with the share of the tokens that were cut they sum to 1."""


@torch.no_grad()
def attention_by_head(model: Transformer, contexts: Sequence[Sequence[int]]) -> Attention:
    """Entropy, distance and share of the first token, averaged over the contexts."""
    sums_LMPH = torch.zeros((model.config.depth, 3, 2, model.config.n_head), dtype=torch.float64)
    for start in range(0, len(contexts), ROWS):
        _add_measures(model, contexts[start : start + ROWS], sums_LMPH)
    entropy, distance, first_token = (sums_LMPH / len(contexts)).transpose(0, 1)
    return Attention(
        entropy=rounded(entropy[:, 0]),
        entropy_at_answer=rounded(entropy[:, 1]),
        distance=rounded(distance[:, 0]),
        distance_at_answer=rounded(distance[:, 1]),
        first_token=rounded(first_token[:, 0]),
        first_token_at_answer=rounded(first_token[:, 1]),
    )


def _add_measures(model: Transformer, contexts: Sequence[Sequence[int]], sums_LMPH: Tensor) -> None:
    """Adds the contexts' measures to the sums [layers, 3, 2, H]; each context counts once, however long it is."""
    device = model.cos.device
    weights_PBT = _position_weights([len(c) for c in contexts]).to(device)

    def look(layer: int, q_BHTD: Tensor, k_BKTD: Tensor, window: int) -> None:
        for first, a_BHQT in all_attention(q_BHTD, k_BKTD, window):
            weights_PBQ = weights_PBT[:, :, first : first + a_BHQT.size(2)]
            means_MPH = torch.einsum("mbhq,pbq->mph", _measures(a_BHQT, first, window), weights_PBQ)
            sums_LMPH[layer] += means_MPH.double().cpu()

    watch(model, pad(contexts).to(device), look)


def _position_weights(lengths: Sequence[int]) -> Tensor:
    """[2, B, T]: what each position counts in the mean over a row's tokens, and the same for its last token alone."""
    weights_PBT = torch.zeros((2, len(lengths), max(lengths)))
    for row, length in enumerate(lengths):
        weights_PBT[0, row, 1:length] = 1 / max(1, length - 1)
        weights_PBT[1, row, length - 1] = 1
    return weights_PBT


def _measures(a_BHQT: Tensor, first: int, window: int) -> Tensor:
    """[3, B, H, Q]: entropy as a share of ln t, mean distance in tokens, share of the first token of the text."""
    Q = a_BHQT.size(2)
    seen_Q = torch.arange(first + 1, first + Q + 1, device=a_BHQT.device).clamp(min=2, max=max(2, window)).float()
    entropy_BHQ = entropy_terms(a_BHQT).sum(dim=3) / seen_Q.log()
    distance_BHQ = (a_BHQT * distances(first, Q, a_BHQT.device)).sum(dim=3)
    return torch.stack([entropy_BHQ, distance_BHQ, a_BHQT[..., 0]])


@torch.no_grad()
def head_map(model: Transformer, tokenizer: Tokenizer, context: Context) -> HeadMap:
    """The attention of every head from the last token of the context."""
    device, length = model.cos.device, len(context.ids)
    weights: list[list[list[float]]] = []
    cut = max(0, length - MAX_TOKENS_OF_MAP)

    def look(_layer: int, q_BHTD: Tensor, k_BKTD: Tensor, window: int) -> None:
        (a_HT,) = attention_from(q_BHTD, k_BKTD, torch.tensor([length - 1], device=device), window)
        weights.append(rounded(a_HT[:, cut:], MAP_DIGITS))

    watch(model, torch.tensor([context.ids], device=device), look)
    return HeadMap(id=context.id, tokens=token_texts(tokenizer, context.ids[cut:]), cut=cut, weights=weights)
