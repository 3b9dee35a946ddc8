"""An engine that says what it is told, for tests of what is made of completions."""

from __future__ import annotations

from aquarat_core.rollout.batch import Completion
from aquarat_core.rollout.engine import Engine
from tests.factories import tokenizer


class Scripted(Engine):
    """Says one list of texts for each prompt; a text ending in ~ is cut off."""

    def __init__(self, texts: list[list[str]]) -> None:
        self.texts, self.stop = texts, tokenizer().special("<|assistant_end|>")

    def generate(
        self, prompts, keys, max_new_tokens, temperature, max_rows=1024, tool=None, **_
    ) -> list[list[Completion]]:
        assert [len(k) for k in keys] == [len(t) for t in self.texts]
        return [[self._said(text) for text in texts] for texts in self.texts]

    def _said(self, text: str) -> Completion:
        tokens = tokenizer().encode(text.rstrip("~")) + ([] if text.endswith("~") else [self.stop])
        return Completion(tokens, [-1.0] * len(tokens), not text.endswith("~"))
