"""Conversations as tokens: the chat format and the loss mask.

    <|bos|> (<|user_start|> user <|user_end|> <|assistant_start|> assistant <|assistant_end|>)*

Within an assistant message, a call of a tool and its output are enclosed by special tokens of their own:

    48/2 = <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24 clips

Only special tokens separate turns and parts, and text never becomes a special token: no text can end its own turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from aquarat_core.conversation import MARKS, Message, assistant_message, text_part, user_message

if TYPE_CHECKING:
    from aquarat_core.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
STOP_TOKENS = ("<|assistant_end|>", "<|bos|>")
"""What ends a generation: in a conversation the end of the turn, and everywhere the beginning of the next document."""


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], loss_on: Literal["all", "assistant"] = "assistant"
) -> tuple[list[int], list[int]]:
    """A complete conversation as (ids, mask), both of length L.

    `mask[i]` is 1 if `ids[i]` is learned. With `loss_on="assistant"`, these are the tokens that the model generates:
    assistant text, calls with the tokens around them, and `<|assistant_end|>`. With "all" everything is learned except
    a tool's output and the tokens around it: the engine inserts those, and a model that learns to predict them learns
    to make up results. Raises `ValueError` unless user and assistant alternate and the last message is the assistant's.
    """
    turns = _turns(messages)
    if len(turns) % 2:
        raise ValueError("the conversation ends with the user: use render_prompt")
    given = int(loss_on == "all")
    ids, mask = [tokenizer.special("<|bos|>")], [given]
    for turn in turns:
        role = turn["role"]
        learned = int(role == "assistant") | given
        ids.append(tokenizer.special(f"<|{role}_start|>"))
        mask.append(given)
        for part in turn.get("parts") or [text_part(turn["content"])]:
            body = tokenizer.encode(part["text"])
            if part["type"] != "text":
                before, after = map(tokenizer.special, MARKS[part["type"]])
                body = [before, *body, after]
            ids += body
            mask += [0 if part["type"] == "output" else learned] * len(body)
        ids.append(tokenizer.special(f"<|{role}_end|>"))
        mask.append(learned)
    return ids, mask


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """A conversation that expects a reply, as ids that end with `<|assistant_start|>`.

    Raises `ValueError` for an unknown role, and unless user and assistant alternate and the last message is the user's.
    """
    _check_roles(messages)
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("the conversation does not end with the user: there is nothing to reply to")
    # An empty reply renders as start and end tokens; the prompt lacks the end token.
    ids, _ = render(tokenizer, [*messages, assistant_message("")])
    return ids[:-1]


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end a generation: those of the end of the assistant's turn and of the beginning of a document."""
    return tuple(map(tokenizer.special, STOP_TOKENS))


def reading_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Generated ids as the text that a reader is meant to see: without special tokens, calls of tools and their output.

    What follows the beginning of a call or an output is left out up to the next special token, even while that is still
    to come: more ids only ever continue the text.
    """
    special = set(tokenizer.special_ids.values())
    hiding = {tokenizer.special_ids.get(before) for before, _ in MARKS.values() if before}
    kept: list[int] = []
    hidden = False
    for id in ids:
        if id in special:
            hidden = id in hiding
        elif not hidden:
            kept.append(id)
    return tokenizer.decode(kept)


def _check_roles(messages: Sequence[Message]) -> None:
    """Raises `ValueError` for a role that does not exist, and for a system message alone."""
    for i, message in enumerate(messages):
        if message["role"] not in ROLES:
            raise ValueError(f"message {i} has the unknown role {message['role']!r}: roles are {', '.join(ROLES)}")
    if [message["role"] for message in messages] == ["system"]:
        raise ValueError("there is only a system message: add a message of the user")


def _turns(messages: Sequence[Message]) -> list[Message]:
    """The turns, with a leading system message merged into the first user message."""
    turns = list(messages)
    if len(turns) > 1 and turns[0]["role"] == "system" and turns[1]["role"] == "user":
        turns[:2] = [user_message(f"{turns[0]['content']}\n\n{turns[1]['content']}")]
    expected = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if not turns or [m["role"] for m in turns] != expected:
        roles = ", ".join(m["role"] for m in messages) or "nothing"
        raise ValueError(f"a conversation is user and assistant in turn, after at most one system message; got {roles}")
    if any(m.get("parts") for m in (*messages[:1], *turns[::2])):
        raise ValueError("a system or user message has parts: only an assistant calls tools")
    return turns
