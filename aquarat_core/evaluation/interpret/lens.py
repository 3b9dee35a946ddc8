"""The logit lens (nostalgebraist 2020): what the model would answer if it stopped after each layer.

The residual stream behind each layer goes through the last normalization and the head, as the one behind the last layer
does, and only the letters are compared. So the layer shows at which the right letter begins to win. An early layer that
says nothing may still know: the head is trained to read the last layer (Belrose et al. 2023, arXiv 2303.08112).

Shapes: N layers and the embeddings before them, B rows, T tokens, C width, L letters, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from aquarat_core.data.rows import pad
from aquarat_core.evaluation.interpret.numbers import rounded
from aquarat_core.model.transformer import Transformer, norm
from aquarat_core.model.typed_torch import entropy_terms

ROWS = 32
"""Contexts in one pass."""


class Lens(TypedDict):
    """Means over the questions after the embeddings and after each layer, [1 + layers], at the token before the
    letter."""

    letters: list[str]
    accuracy: list[float]
    """Share of questions whose most likely letter is right."""
    gold_probability: list[float]
    """Of the right letter, among the letters."""
    entropy: list[float]
    """Of the letters, in nats; ln L is a model that knows nothing."""
    letter_mass: list[float]
    """Probability, among all tokens of the vocabulary, that the next one is a letter."""


@torch.no_grad()
def residual_streams(model: Transformer, contexts: Sequence[Sequence[int]]) -> Tensor:
    """[N, B, C]: the residual stream at each context's last token, before the first layer and after each.

    With `backout`, what it takes out before the head is taken out wherever it is known, which is from the middle on.
    """
    lengths_B = torch.tensor([len(c) for c in contexts], device=model.cos.device)
    streams: list[Tensor] = []

    def keep(x_BTC: Tensor) -> None:
        streams.append(x_BTC[torch.arange(len(contexts), device=x_BTC.device), lengths_B - 1])

    def before(_block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        keep(arguments[0])

    def after(_block: nn.Module, _arguments: tuple[Tensor, ...], x_BTC: Tensor) -> None:
        keep(x_BTC)

    hooks = [model.blocks[0].register_forward_pre_hook(before)]
    hooks += [block.register_forward_hook(after) for block in model.blocks]
    try:
        model.hidden(pad(contexts).to(model.cos.device))
    finally:
        for hook in hooks:
            hook.remove()
    if model.config.backout:
        middle = 1 + model.config.depth // 2
        taken_out = model.backout_lambda.to(streams[middle].dtype) * streams[middle]
        streams = [x if n < middle else x - taken_out for n, x in enumerate(streams)]
    return torch.stack(streams)


@torch.no_grad()
def letter_lens(
    model: Transformer,
    contexts: Sequence[Sequence[int]],
    gold: Sequence[int],
    letters: Sequence[str],
    letter_ids: Sequence[int],
) -> Lens:
    """The lens on the letters after each context; `gold` are indices into `letters`."""
    sums_4N = torch.zeros((4, 1 + model.config.depth), dtype=torch.float64)
    for start in range(0, len(contexts), ROWS):
        part = slice(start, start + ROWS)
        gold_B = torch.tensor(gold[part], device=model.cos.device)
        for n, x_BC in enumerate(residual_streams(model, contexts[part])):
            sums_4N[:, n] += _readings(model.logits(norm(x_BC)), gold_B, letter_ids).double().cpu()
    accuracy, probability, entropy, mass = (sums_4N / len(contexts)).unbind()
    return Lens(
        letters=list(letters),
        accuracy=rounded(accuracy),
        gold_probability=rounded(probability),
        entropy=rounded(entropy),
        letter_mass=rounded(mass),
    )


def _readings(logits_BV: Tensor, gold_B: Tensor, letter_ids: Sequence[int]) -> Tensor:
    """[4]: sums over the rows, in the order of `Lens`."""
    logits_BL = logits_BV[:, list(letter_ids)]
    p_BL = torch.softmax(logits_BL, dim=1)
    right_B = logits_BL.argmax(dim=1) == gold_B
    gold_p_B = p_BL.gather(1, gold_B[:, None]).squeeze(1)
    mass_B = torch.softmax(logits_BV, dim=1)[:, list(letter_ids)].sum(dim=1)
    return torch.stack([right_B.float().sum(), gold_p_B.sum(), entropy_terms(p_BL).sum(), mass_B.sum()])
