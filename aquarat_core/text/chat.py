"""Conversations as tokens: the chat format and the loss mask.

    <|bos|> (<|user_start|> user <|user_end|> <|assistant_start|> assistant <|assistant_end|>)*

Only special tokens separate turns, and text never becomes a special token: no message content can end its own turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aquarat_core.conversation import Message

if TYPE_CHECKING:
    from aquarat_core.text.tokenizer import Tokenizer


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """A complete conversation as (ids, mask), both of length L.

    `mask[i]` is 1 if the model generates `ids[i]`: assistant text and the `<|assistant_end|>` after it. Raises
    `ValueError` unless user and assistant alternate and the last message is the assistant's.
    """
    turns = _turns(messages)
    if len(turns) % 2:
        raise ValueError("the conversation ends with the user: render_prompt is for those")
    ids, mask = [tokenizer.special("<|bos|>")], [0]
    for role, text in turns:
        body = [*tokenizer.encode(text), tokenizer.special(f"<|{role}_end|>")]
        ids += [tokenizer.special(f"<|{role}_start|>"), *body]
        mask += [0, *[int(role == "assistant")] * len(body)]
    return ids, mask


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """A conversation that expects a reply, as ids that end with `<|assistant_start|>`.

    Raises `ValueError` unless user and assistant alternate and the last message is the user's.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("the conversation does not end with the user: there is nothing to reply to")
    # An empty reply renders as start and end tokens; the prompt lacks the end token.
    ids, _ = render(tokenizer, [*messages, {"role": "assistant", "content": ""}])
    return ids[:-1]


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """(role, text) of each turn, with a leading system message merged into the first user message."""
    turns = [(m["role"], m["content"]) for m in messages]
    if len(turns) > 1 and turns[0][0] == "system" and turns[1][0] == "user":
        turns[:2] = [("user", f"{turns[0][1]}\n\n{turns[1][1]}")]
    expected = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if not turns or [role for role, _ in turns] != expected:
        roles = ", ".join(m["role"] for m in messages) or "nothing"
        raise ValueError(f"a conversation is user and assistant in turn, after at most one system message; got {roles}")
    return turns
