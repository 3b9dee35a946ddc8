"""The cue that is forced after a model's own solution, so that its letter is read from likelihoods, not from text.

A solution is cut before the model announces an answer of its own; then the task's words for an answer follow, on a line
of their own. The letter needs no form, and its probability says more than one draw of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from aquarat_core.errors import DataError
from aquarat_core.evaluation.letters import Lettered, answer_cue
from aquarat_core.text.tokenizer import Tokenizer


class ForcedCue:
    """The cue of one task under one tokenizer.

    Raises `TokenizerError` if a letter is not a token of its own, and `DataError` if it is another one at the start of
    a line.
    """

    def __init__(self, tokenizer: Tokenizer, task: Lettered, name: str) -> None:
        """`name` is the task's, for the error."""
        self._tokenizer = tokenizer
        self.words = words_for_an_answer(task)
        self._after_line, self.letter_ids = answer_cue(tokenizer, task, "\n")
        self._at_once, same = answer_cue(tokenizer, task)
        if self.letter_ids != same:
            raise DataError(f"task {name}: the letters of its answers have other tokens at the start of a line")

    @property
    def n_tokens(self) -> int:
        """The room that the cue needs in a model's context."""
        return max(len(self._after_line), len(self._at_once))

    def solution(self, content: list[int]) -> list[int]:
        """The tokens of a completion before the one in which it begins to announce an answer; all if it does not."""
        words, text = self.words.rstrip(), self._tokenizer.decode(content)
        if words not in text:
            return content
        return content[: bisect_right(self._tokenizer.offsets(content), text.index(words)) - 1]

    def context(self, prompt: Sequence[int], solution: Sequence[int]) -> list[int]:
        """The prompt, the solution and the cue, after which a letter follows."""
        open_line = bool(solution) and not self._tokenizer.decode(list(solution)).endswith("\n")
        return [*prompt, *solution, *(self._after_line if open_line else self._at_once)]


def words_for_an_answer(task: Lettered) -> str:
    """The task's own words for an answer, up to the letter."""
    first = task.answer_text(task.categories[0])
    return first.removesuffix(task.categories[0])
