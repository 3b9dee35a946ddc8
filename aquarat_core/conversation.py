"""Conversations: what a chat model reads and writes, before it becomes tokens."""

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
"""Names of the special tokens before and after a part; empty for text, which has none."""


class Part(TypedDict):
    """A stretch of what an assistant says: text, a call of a tool, or the tool's output, which the model only reads."""

    type: PartType
    text: str


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant.

    Where an assistant calls tools, `parts` says which stretches are calls and outputs, and `content` is
    `parts_text(parts)`. A name of a special token in `content` alone is text like any other.
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
    """What the assistant says; `text` is `parts_text(parts)` if there are parts."""
    if parts:
        return {"role": "assistant", "content": text, "parts": list(parts)}
    return {"role": "assistant", "content": text}


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def call_parts(call: str, output: str) -> list[Part]:
    """A call of a tool and what the tool answers."""
    return [{"type": "call", "text": call}, {"type": "output", "text": output}]


def with_text(parts: Sequence[Part], text: str) -> list[Part]:
    """The parts and `text` after them, in one piece with the last part if that is text."""
    *before, last = parts
    return [*before, text_part(last["text"] + text)] if last["type"] == "text" else [*parts, text_part(text)]


def parts_text(parts: Iterable[Part]) -> str:
    """The parts as a reader and a grader see them: exactly what `Tokenizer.decode` gives for their tokens, the names of
    the special tokens around calls and outputs included."""
    return "".join(part["text"].join(MARKS[part["type"]]) for part in parts)


def message_texts(message: Message) -> list[str]:
    """The stretches of a message that become ordinary tokens, each encoded by itself."""
    parts = message.get("parts")
    return [part["text"] for part in parts] if parts else [message["content"]]


def transcript(messages: Sequence[Message]) -> str:
    """The messages' texts as a reader is shown them; of a single message its text alone."""
    return "\n\n".join(m["content"] for m in messages)
