"""Conversations: what a chat model reads and writes, before it becomes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation and its name, which is unique in its source and split."""

    id: str
    messages: list[Message]


def user_message(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant_message(text: str) -> Message:
    return {"role": "assistant", "content": text}


def transcript(messages: Sequence[Message]) -> str:
    """The messages' texts as a reader is shown them; of a single message its text alone."""
    return "\n\n".join(m["content"] for m in messages)
