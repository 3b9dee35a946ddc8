"""What a checkpoint computes on one question and its answer: probabilities of the tokens, the logit lens, attention.

The answer's text is encoded again, so its tokens may be split otherwise than when it was generated.

Shapes: T tokens, N layers and the embeddings before them, V vocabulary, C width, H heads, D head size.
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aquarat_core.conversation import MARKS, user_message
from aquarat_core.errors import DataError, UserError
from aquarat_core.evaluation.interpret.batch import token_texts
from aquarat_core.evaluation.interpret.lens import residual_streams
from aquarat_core.evaluation.interpret.watching import all_attention, watch
from aquarat_core.evaluation.letters import answer_position, letter_ids
from aquarat_core.model.transformer import norm
from aquarat_core.model.typed_torch import to_list
from aquarat_core.serving.likelihoods import likelihoods_of
from aquarat_core.tasks.choice import MARKER
from aquarat_core.text.chat import render_prompt
from aquarat_core.text.tokenizer import Tokenizer, TokenizerError

if TYPE_CHECKING:
    from aquarat_core.api import Model

MAX_MAP = 256
"""Tokens of an attention map: the last ones of a longer text."""
MAX_TOKENS = 4096
"""Tokens of prompt and answer whose probabilities are shown."""
ALTERNATIVES = 5
_SPECIAL = re.compile("|".join(re.escape(name) for pair in MARKS.values() for name in pair if name))


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and an answer to it as tokens."""

    ids: list[int]
    prompt: int
    """Tokens of the prompt, with the tokens of the chat format."""


def encoded(tokenizer: Tokenizer, prompt: str, answer: str, ended: bool, room: int) -> Asked:
    """The tokens of a question and its answer, with the token that ends it if it `ended` by itself.

    Raises `DataError` if they do not fit into `room` tokens.
    """
    before = render_prompt(tokenizer, [user_message(prompt)])
    ids: list[int] = []
    at = 0
    for found in _SPECIAL.finditer(answer):
        ids += [*tokenizer.encode(answer[at : found.start()]), tokenizer.special(found[0])]
        at = found.end()
    ids += tokenizer.encode(answer[at:])
    if ended:
        ids.append(tokenizer.special("<|assistant_end|>"))
    if len(before) + len(ids) > (room := min(room, MAX_TOKENS)):
        raise DataError(
            f"prompt and answer have {len(before) + len(ids):,} tokens, more than the {room:,} that can be shown here"
        )
    return Asked([*before, *ids], len(before))


@torch.no_grad()
def token_view(model: Model, asked: Asked) -> dict[str, Any]:
    """Each token's text and probability, and for those of the answer the most likely tokens in its place."""
    tokens: list[dict[str, Any]] = [{"text": text} for text in token_texts(model.tokenizer, asked.ids)]
    for at, found in enumerate(likelihoods_of(model, asked.ids, ALTERNATIVES)):
        if found is None:
            continue
        tokens[at]["logp"] = round(found.logprob, 4)
        if at >= asked.prompt:
            names = token_texts(model.tokenizer, [id for id, _ in found.alternatives])
            shares = (round(math.exp(logp), 4) for _, logp in found.alternatives)
            tokens[at]["best"] = list(zip(names, shares, strict=True))
    return {
        "tokens": tokens,
        "prompt": asked.prompt,
        "answer_logp": round(sum(one["logp"] for one in tokens[asked.prompt :]), 4),
        "layers": model.config.depth,
        "heads": model.config.n_head,
    }


@torch.no_grad()
def lens_view(model: Model, asked: Asked, letters: tuple[str, ...], token: int) -> dict[str, Any]:
    """What the model would say in place of `token` if it stopped after each layer: the letters, and the likeliest
    token. Token 0, which nothing comes before, means the place of the answer's letter, or the answer's first token.

    Raises `UserError` for a token that is not there.
    """
    letter_tokens = _letters(model.tokenizer, letters)
    if not token:
        token = _decisive(asked, letter_tokens)
    if not 0 < token < len(asked.ids):
        raise UserError(f"token must be between 1 and {len(asked.ids) - 1}")
    streams_NC = residual_streams(model.transformer, [asked.ids[:token]])[:, 0]
    probabilities_NV = torch.softmax(model.transformer.logits(norm(streams_NC)), dim=1)
    rows: list[dict[str, Any]] = []
    for p_V in probabilities_NV:
        best = int(p_V.argmax())
        own = p_V[letter_tokens] if letter_tokens else None
        rows.append(
            {
                "letters": [] if own is None else [round(x, 5) for x in to_list(own / own.sum().clamp_min(1e-30))],
                "mass": None if own is None else round(float(own.sum()), 5),
                "best": token_texts(model.tokenizer, [best])[0],
                "best_p": round(float(p_V[best]), 5),
                "own_p": round(float(p_V[asked.ids[token]]), 5),
            }
        )
    return {
        "token": token,
        "text": token_texts(model.tokenizer, [asked.ids[token]])[0],
        "letters": list(letters) if letter_tokens else [],
        "rows": rows,
    }


@torch.no_grad()
def attention_view(model: Model, asked: Asked, layer: int, head: int) -> dict[str, Any]:
    """The attention map of one head over the last `MAX_MAP` tokens: row i has the weights of token i, 255 for 1.

    Raises `UserError` for a layer or head that is not there.
    """
    config = model.config
    if layer >= config.depth or head >= config.n_head:
        raise UserError(f"this checkpoint has the layers 0 to {config.depth - 1} and heads 0 to {config.n_head - 1}")
    T = len(asked.ids)
    cut = max(0, T - MAX_MAP)
    map_TT = torch.zeros((T - cut, T - cut), dtype=torch.uint8)

    def look(at: int, q_BHTD: Tensor, k_BKTD: Tensor, window: int) -> None:
        if at != layer:
            return
        shared = q_BHTD.size(1) // k_BKTD.size(1)
        key = head // shared
        for first, a_BHQT in all_attention(q_BHTD[:, head : head + 1], k_BKTD[:, key : key + 1], window):
            a_QT = a_BHQT[0, 0].cpu()
            rows = slice(max(0, cut - first), len(a_QT))
            kept = a_QT[rows, cut:]
            map_TT[max(0, first - cut) : max(0, first - cut) + len(kept), : kept.size(1)] = (255 * kept).round().byte()

    watch(model.transformer, torch.tensor([asked.ids], device=model.device), look)
    return {
        "layer": layer,
        "head": head,
        "size": T - cut,
        "cut": cut,
        "map": b64encode(bytes(to_list(map_TT.flatten()))).decode(),
        "window": config.windows[layer],
    }


def _letters(tokenizer: Tokenizer, letters: tuple[str, ...]) -> list[int]:
    """The ids of an answer's letters; none where the tokenizer has no tokens for them."""
    if not letters:
        return []
    try:
        return letter_ids(tokenizer, _Lettered(letters))
    except TokenizerError:
        return []


@dataclass(frozen=True, slots=True)
class _Lettered:
    """As much of a task as `letter_ids` asks for."""

    categories: tuple[str, ...]

    def answer_text(self, answer: str) -> str:
        return f"{MARKER}{answer}"


def _decisive(asked: Asked, ids: list[int]) -> int:
    """The place of the answer's last letter, or of its first token if it has none."""
    places = [place for id in ids if (place := answer_position(asked.ids, id)) is not None]
    last = max(places, default=0)
    return last if last >= asked.prompt else min(asked.prompt, len(asked.ids) - 1)
