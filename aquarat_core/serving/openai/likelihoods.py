"""Log-probabilities of tokens in the two forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aquarat_core.rollout.batch import Drawn, Likelihood
from aquarat_core.text.tokenizer import Tokenizer


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
