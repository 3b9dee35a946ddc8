"""The text of an answer while its tokens arrive.

A token may end within a character, and the end of the text so far may be the beginning of a stop text. Both are held
back until more tokens show what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aquarat_core.conversation import MARKS
from aquarat_core.errors import UsageError
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the calculator that the tokens contain, and what it returned; empty if it could not be computed."""

    expression: str
    result: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What some tokens of an answer add to it."""

    text: str
    calls: tuple[Call, ...] = ()
    ended: bool | None = None
    """In the last piece: whether a stop token or stop text ended the answer, rather than the limit of tokens."""


class Reader:
    """Turns the tokens of one answer into text, piece by piece. Raises `UsageError` if a stop text is empty.

    The pieces together are the text of `reading_text`, or, with `special_tokens`, that of `Tokenizer.decode`, up to the
    stop text that is complete first. It must not be given the stop token itself.
    """

    def __init__(self, tokenizer: Tokenizer, stop_texts: Sequence[str] = (), special_tokens: bool = False) -> None:
        if "" in stop_texts:
            raise UsageError("a stop text is empty: it would end every answer before it begins")
        self.calls: list[Call] = []
        """All calls so far whose output is complete."""
        self.stopped = False
        """Whether a stop text was found: what comes after it is ignored."""
        self._tokenizer, self._stops, self._all = tokenizer, tuple(stop_texts), special_tokens
        self._decoder = tokenizer.stream()
        self._held = ""
        self._special = {id: name for name, id in tokenizer.special_ids.items()}
        self._parts = {before: (kind, after) for kind, (before, after) in MARKS.items() if before}
        self._open: tuple[str, str] | None = None
        """Kind and closing mark of the part of a call that the last tokens belong to."""
        self._inside: list[int] = []
        self._expression: str | None = None

    def push(self, tokens: Iterable[int]) -> str:
        """The text that is certain now and was not before."""
        said: list[str] = []
        for token in tokens:
            name = self._special.get(token)
            if name is None and self._open:
                self._inside.append(token)
            elif name is not None:
                self._mark(name)
            if self._all or (name is None and not self._open):
                said.append(self._decoder.push(token))
        return self._certain("".join(said))

    def finish(self) -> str:
        """The rest of the text, when no token follows."""
        rest = self._certain(self._decoder.finish())
        held, self._held = self._held, ""
        return rest + held

    def _mark(self, name: str) -> None:
        """Follow the parts of a call; text in a part ends at any special token, as in `reading_text`."""
        if self._open and name == self._open[1]:
            self._close(self._open[0])
        self._open = self._parts.get(name)
        self._inside = []

    def _close(self, kind: str) -> None:
        text = self._tokenizer.decode(self._inside)
        if kind == "call":
            self._expression = text
        elif self._expression is not None:
            self.calls.append(Call(self._expression, text))
            self._expression = None

    def _certain(self, new: str) -> str:
        """What can be passed on of the text that was held back and `new`."""
        if self.stopped:
            return ""
        text = self._held + new
        if (place := stop_place(text, self._stops)) is not None:
            self.stopped, self._held = True, ""
            return text[:place]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def stop_place(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop text begins that is complete first; None if the text has none.

    Not the one that begins first: whether that is complete already may depend on how many tokens come at a time.
    """
    found = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
