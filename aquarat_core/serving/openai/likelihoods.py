"""Log-probabilities of tokens in the two forms of OpenAI's API, and those of a prompt.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aquarat_core.api import Model
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rollout.batch import Drawn, Likelihood
from aquarat_core.text.tokenizer import Tokenizer

AT_ONCE = 256
"""Positions whose logits are in memory at a time."""


def of_prompt(model: Model, ids: Sequence[int], alternatives: int) -> list[Likelihood | None]:
    """How likely each token of a text is after those before it; None for the first."""
    row = torch.tensor([ids], device=model.device)
    hidden_TC = model.transformer.hidden(row)[0, :-1]
    found: list[Likelihood | None] = [None]
    for start in range(0, len(hidden_TC), AT_ONCE):
        net = model.transformer
        logp_TV = torch.log_softmax(net.softcap(net.head(hidden_TC[start : start + AT_ONCE])).float(), dim=1)
        given = row[0, start + 1 : start + 1 + len(logp_TV)]
        own = to_list(logp_TV.gather(1, given[:, None])[:, 0])
        top = logp_TV.topk(min(alternatives, logp_TV.size(1)), dim=1)
        rows = zip(own, to_list(top.indices), to_list(top.values), strict=True)
        found += [Likelihood(logp, tuple(zip(tokens, logps, strict=True))) for logp, tokens, logps in rows]
    return found


def token_text(tokenizer: Tokenizer, id: int) -> str:
    """What a token stands for; bytes that are no character by themselves become U+FFFD."""
    return tokenizer.token(id).decode(errors="replace")


def chat_form(tokenizer: Tokenizer, tokens: Sequence[Drawn]) -> list[dict[str, Any]]:
    """The items of `choices[].logprobs.content`."""

    def item(id: int, logprob: float) -> dict[str, Any]:
        return {"token": token_text(tokenizer, id), "logprob": logprob, "bytes": list(tokenizer.token(id))}

    return [
        {
            **item(drawn.token, drawn.likelihood.logprob),
            "top_logprobs": [item(id, logprob) for id, logprob in drawn.likelihood.alternatives],
        }
        for drawn in tokens
        if drawn.likelihood
    ]


def text_form(
    tokenizer: Tokenizer, ids: Sequence[int], likelihoods: Sequence[Likelihood | None], offset: int = 0
) -> dict[str, Any]:
    """`choices[].logprobs` of a completion; `offset` is the character at which the first token starts."""
    offsets = tokenizer.offsets(ids)
    return {
        "tokens": [token_text(tokenizer, id) for id in ids],
        "token_logprobs": [found.logprob if found else None for found in likelihoods],
        "top_logprobs": [
            {token_text(tokenizer, id): logprob for id, logprob in found.alternatives} if found else None
            for found in likelihoods
        ],
        "text_offset": [offset + start for start in offsets],
    }
