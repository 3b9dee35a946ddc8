"""Conversations: the input and output of a chat model, before they become tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

PartType = Literal["text", "call", "output"]
MARKS: Mapping[PartType, tuple[str, str]] = {
    "text": ("", ""),
    "call": ("<|python_start|>", "<|python_end|>"),
    "output": ("<|output_start|>", "<|output_end|>"),
}
"""Names of the special tokens before and after a part; empty for text."""


class Part(TypedDict):
    """A part of an assistant message: text, a call of a tool, or the tool's output, which the model only reads."""

    type: PartType
    text: str


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant.

    If an assistant calls tools, `parts` says which parts are calls and outputs, and `content` is `parts_text(parts)`.
    Names of special tokens in `content` itself are ordinary text.
    """

    role: str
    content: str
    parts: NotRequired[Sequence[Part]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation and its name, which is unique in its source and split."""

    id: str
    messages: list[Message]


def user_message(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant_message(text: str, parts: Sequence[Part] = ()) -> Message:
    """An assistant message; with parts, `text` must be `parts_text(parts)`."""
    if parts:
        return {"role": "assistant", "content": text, "parts": list(parts)}
    return {"role": "assistant", "content": text}


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def call_parts(call: str, output: str) -> list[Part]:
    """A call of a tool and the tool's output."""
    return [{"type": "call", "text": call}, {"type": "output", "text": output}]


def with_text(parts: Sequence[Part], text: str) -> list[Part]:
    """The parts followed by `text`, which is merged with the last part if that is text."""
    *before, last = parts
    return [*before, text_part(last["text"] + text)] if last["type"] == "text" else [*parts, text_part(text)]


def parts_text(parts: Iterable[Part]) -> str:
    """The parts as readers and graders see them: exactly what `Tokenizer.decode` returns for their tokens, including
    the names of the special tokens around calls and outputs."""
    return "".join(part["text"].join(MARKS[part["type"]]) for part in parts)


def without_calls(text: str, parts: Sequence[Part]) -> str:
    """A text as a reader is meant to see it: without the calls and outputs among its `parts`; as it is if it has no
    parts."""
    return "".join(part["text"] for part in parts if part["type"] == "text") if parts else text


def message_texts(message: Message) -> list[str]:
    """The texts in a message that become ordinary tokens, each encoded separately."""
    parts = message.get("parts")
    return [part["text"] for part in parts] if parts else [message["content"]]


def transcript(messages: Sequence[Message]) -> str:
    """The messages' texts as shown to readers; for a single message only its text."""
    return "\n\n".join(m["content"] for m in messages)
