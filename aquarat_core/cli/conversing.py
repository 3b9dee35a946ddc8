"""A conversation with a model: its messages, how answers are sampled, and what fits into the model's context."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from aquarat_core.conversation import Message, assistant_message, user_message
from aquarat_core.errors import UsageError
from aquarat_core.tasks.choice import parse_letter

if TYPE_CHECKING:
    from aquarat_core.api import Model
    from aquarat_core.text.reading import Call, Piece

ANSWER_SHARE = 4
"""An answer may be as long as this fraction of the context, one in `ANSWER_SHARE`, if no limit is given."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer, or the part of it that came before the user stopped it."""

    text: str
    calls: tuple[Call, ...]
    stopped: bool = False
    """Whether the user stopped it."""
    cut_off: bool = False
    """Whether it reached the limit of tokens."""

    @property
    def letter(self) -> str | None:
        """The letter of its last line `Answer: X`, as evaluations parse it; None without one."""
        return None if self.stopped or self.cut_off else parse_letter(self.text, ascii_uppercase)


@dataclass(slots=True)
class Conversation:
    """The messages so far and the settings of the next answer."""

    model: Model
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    calculator: bool = True
    system: str = ""
    messages: list[Message] = field(default_factory=list[Message])
    """The user's and the model's in turn; the last is the model's unless it is being answered."""
    dropped: int = 0
    """How many of the oldest exchanges did not fit the context and are no longer part of the conversation."""

    @property
    def limit(self) -> int:
        """Tokens that an answer may have."""
        context = self.model.config.sequence_len
        return self.max_new_tokens or max(1, min(self.model.max_chat_tokens, context // ANSWER_SHARE))

    def ask(self, text: str) -> Iterator[Piece]:
        """The model's answer to a message, in pieces as they come. Call `keep` with what came.

        Raises `UsageError` for a message that does not fit the model's context by itself.
        """
        self.messages.append(user_message(text))
        try:
            self._make_room()
        except UsageError:
            self.messages.pop()
            raise
        return self.model.stream(
            self._plain(), max_new_tokens=self.limit, temperature=self.temperature, top_k=self.top_k,
            top_p=self.top_p, seed=self.seed, calculator=self.calculator,
        )  # fmt: skip

    def keep(self, answer: Answer) -> None:
        """Ends an exchange: the answer becomes part of the conversation; without a text, its question leaves it."""
        if answer.text:
            self.messages.append(assistant_message(answer.text))
        else:
            self.forget_question()

    def forget_question(self) -> None:
        """Removes the last message if it has no answer."""
        if len(self.messages) % 2:
            self.messages.pop()

    def undo(self) -> str:
        """Removes the last exchange and returns the user's message. Raises `UsageError` if there is none."""
        if not self.messages:
            raise UsageError("there is nothing to take back: the conversation is empty")
        *self.messages, asked, _ = self.messages
        return asked["content"]

    def clear(self) -> None:
        """Begins anew with the same settings."""
        self.messages.clear()
        self.dropped = 0

    def save(self, path: Path) -> None:
        """Writes the conversation as one line of JSON. Raises `UsageError` if the file exists or cannot be written."""
        artifact = self.model.artifact
        facts: dict[str, Any] = {
            "messages": self._plain(),
            "model": artifact.uri if artifact else repr(self.model),
            "temperature": self.temperature,
            "seed": self.seed,
        }
        try:
            with path.expanduser().open("x", encoding="utf-8") as file:
                file.write(json.dumps(facts, ensure_ascii=False) + "\n")
        except FileExistsError:
            raise UsageError(f"{path} exists already: choose another name") from None
        except OSError as e:
            raise UsageError(f"{path} cannot be written: {e.strerror}") from None

    def _plain(self) -> list[dict[str, str]]:
        return [{"role": m["role"], "content": m["content"]} for m in self._with_system()]

    def _with_system(self) -> list[Message]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]

    def _make_room(self) -> None:
        """Drops the oldest exchanges until the rest leaves room for an answer."""
        from aquarat_core.text.chat import render_prompt

        context, limit = self.model.config.sequence_len, self.limit
        while (length := len(render_prompt(self.model.tokenizer, self._with_system()))) + limit > context:
            if len(self.messages) == 1:
                raise UsageError(
                    f"the message has {length} tokens, which with {limit} for the answer is more than the model's "
                    f"context of {context}: shorten it"
                )
            del self.messages[:2]
            self.dropped += 1
