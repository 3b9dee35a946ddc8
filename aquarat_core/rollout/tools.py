"""Tools that a model calls while it speaks: the tokens of a call, and those of the answer that it is given.

    <|python_start|> 12 * 7 <|python_end|>  then  <|output_start|> 84 <|output_end|>

The second half is not sampled but put in the model's mouth, one token a step. The only tool is the calculator; a call
that it cannot answer is answered by nothing between the two marks.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aquarat_core.rollout.calculator import calculate
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Tool:
    """The special tokens around a call and its answer, and what answers it."""

    call_start: int
    call_end: int
    output_start: int
    output_end: int
    answer: Callable[[list[int]], list[int]]
    """From the ids of a call to those of its output."""


def calculator(tokenizer: Tokenizer) -> Tool:
    """The calculator for models of this tokenizer."""
    marks = (tokenizer.special(f"<|{name}|>") for name in ("python_start", "python_end", "output_start", "output_end"))
    return Tool(*marks, answer=lambda ids: tokenizer.encode(calculate(tokenizer.decode(ids)) or ""))


class Calls:
    """The calls of all completions of a batch, by their number."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self._open: dict[int, list[int]] = {}
        """What has been said of calls that have not ended."""
        self._due: defaultdict[int, deque[int]] = defaultdict(deque)
        self._lengths: defaultdict[int, int] = defaultdict(int)
        self._given: defaultdict[int, list[int]] = defaultdict(list)

    def given(self, item: int) -> tuple[int, ...]:
        """Places of the tokens that the tool has said in a completion."""
        return tuple(self._given[item])

    def due(self, items: Sequence[int]) -> list[int]:
        """The token that each completion is given next; -1 where it may say one itself."""
        return [self._due[i].popleft() if self._due[i] else -1 for i in items]

    def said(self, items: Sequence[int], tokens: Sequence[int], given: Sequence[bool]) -> None:
        """Note the newest token of each completion."""
        for i, token, was_given in zip(items, tokens, given, strict=True):
            self._lengths[i] += 1
            if was_given:
                self._given[i].append(self._lengths[i] - 1)
                continue
            if token == self.tool.call_start:
                self._open[i] = []
            elif token == self.tool.call_end and i in self._open:
                output = self.tool.answer(self._open.pop(i))
                self._due[i].extend([self.tool.output_start, *output, self.tool.output_end])
            elif i in self._open:
                self._open[i].append(token)
