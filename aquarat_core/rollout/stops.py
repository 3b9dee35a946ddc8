"""Texts that end a generation, besides the stop tokens of its engine.

A text may begin and end within tokens, so it is looked for in what the tokens say: whenever the host checks which rows
have ended, and once more in the finished completion, from which it is cut off.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aquarat_core.errors import UsageError
from aquarat_core.rollout.batch import Completion, Enough
from aquarat_core.text.reading import stop_place
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Said:
    """What a completion says, without what ended it."""

    text: str
    n_tokens: int
    """Tokens sampled up to its end, including the stop token or those of the stop text."""
    ended: bool
    """Whether a stop token or a stop text ended it, and not the token budget."""


class StopTexts:
    """Texts that end a completion where they first appear. Raises `UsageError` if one is empty.

    `decode` makes text of tokens, by default with the names of special tokens. More tokens must continue its text.
    """

    def __init__(
        self, tokenizer: Tokenizer, texts: Sequence[str] = (), decode: Callable[[Sequence[int]], str] | None = None
    ) -> None:
        if "" in texts:
            raise UsageError("a stop text is empty: it would end every answer before it begins")
        self.texts, self.decode = tuple(texts), decode or tokenizer.decode

    @property
    def enough(self) -> Enough | None:
        """For `Engine.generate`: whether tokens so far say one of the texts. None if there is none to look for."""
        return self._is_said if self.texts else None

    def cut(self, completion: Completion) -> Said:
        """The completion's text before the stop text that is complete first, or all of it."""
        content = completion.content
        text = self.decode(content)
        place = stop_place(text, self.texts)
        if place is None:
            return Said(text, len(completion.tokens), completion.ended)
        n_tokens = bisect_left(range(len(content)), True, key=lambda n: self._is_said(content[:n]))
        return Said(text[:place], n_tokens, True)

    def _is_said(self, ids: Sequence[int]) -> bool:
        text = self.decode(ids)
        return any(stop in text for stop in self.texts)
