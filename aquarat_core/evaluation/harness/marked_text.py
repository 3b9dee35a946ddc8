"""Special tokens in the texts that lm-evaluation-harness hands around, which no question can imitate.

That program knows prompts as text only, and joins them with texts of its own. A conversation that is rendered for it
therefore has marks where its special tokens are, and a mark holds a part of the tokenizer's hash: what looks like a
special token in a question stays the text that it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aquarat_core.conversation import Message
from aquarat_core.text.chat import render, render_prompt
from aquarat_core.text.tokenizer import Tokenizer


class MarkedText:
    """Texts with marks, and their tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.bos = tokenizer, tokenizer.special("<|bos|>")
        seal = tokenizer.sha256[:16]
        self._names = {f"<|{name.strip('<|>')}:{seal}|>": name for name in tokenizer.special_tokens}
        self._marks = {tokenizer.special(name): mark for mark, name in self._names.items()}
        self._pattern = re.compile(f"({'|'.join(map(re.escape, self._names))})")

    def render(self, messages: Sequence[Message], reply: bool = True) -> str:
        """A conversation as text with marks. It stays open for more after a last message of the assistant; after one of
        the user it ends where the assistant begins to speak, unless there is to be no `reply`.

        Raises `ValueError` for turns in another order.
        """
        if messages and messages[-1]["role"] == "assistant":
            ids = render(self.tokenizer, messages)[0][:-1]
        else:
            ids = render_prompt(self.tokenizer, messages)[: None if reply else -1]
        text: list[str] = []
        run: list[int] = []
        for id in ids:
            if mark := self._marks.get(id):
                text += [self.tokenizer.decode(run), mark]
                run = []
            else:
                run.append(id)
        return "".join([*text, self.tokenizer.decode(run)])

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """The tokens of a text, with marks as special tokens; with `bos`, it begins with `<|bos|>`, once."""
        ids: list[int] = []
        for piece in self._pattern.split(text):
            name = self._names.get(piece)
            ids += [self.tokenizer.special(name)] if name else self.tokenizer.encode(piece)
        return [self.bos, *ids] if bos and ids[:1] != [self.bos] else ids

    def plain(self, text: str) -> str:
        """The text as people read it: with the names of special tokens for marks."""
        return self._pattern.sub(lambda found: self._names[found[0]], text)
