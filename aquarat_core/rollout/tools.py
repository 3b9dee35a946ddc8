"""Tools that a model calls while it generates: the tokens of a call, and the tokens of its output.

    <|python_start|> 12 * 7 <|python_end|>  then  <|output_start|> 84 <|output_end|>

The second half is not sampled: its tokens are forced, one per step. The only tool is the calculator; for a call that it
cannot evaluate, the output is empty.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aquarat_core.conversation import MARKS
from aquarat_core.tasks.calculator import calculate
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Tool:
    """The special tokens around a call and its output, and the function that computes the output."""

    call_start: int
    call_end: int
    output_start: int
    output_end: int
    answer: Callable[[list[int]], list[int]]
    """Maps the ids of a call to those of its output."""


def calculator(tokenizer: Tokenizer) -> Tool:
    """The calculator for models of this tokenizer."""
    marks = map(tokenizer.special, (*MARKS["call"], *MARKS["output"]))
    return Tool(*marks, answer=lambda ids: tokenizer.encode(calculate(tokenizer.decode(ids)) or ""))


class Calls:
    """Tracks the tool calls of all completions of a batch, by completion number."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self._open_calls: dict[int, list[int]] = {}
        """Tokens so far of calls that have not ended."""
        self._pending: defaultdict[int, deque[int]] = defaultdict(deque)
        self._lengths: defaultdict[int, int] = defaultdict(int)
        self._forced: defaultdict[int, list[int]] = defaultdict(list)

    def forced(self, item: int) -> tuple[int, ...]:
        """Positions of the tool's tokens in a completion."""
        return tuple(self._forced[item])

    def pending(self, items: Sequence[int]) -> list[int]:
        """The next forced token of each completion; -1 if the model may sample one."""
        return [self._pending[i].popleft() if self._pending[i] else -1 for i in items]

    def observe(self, items: Sequence[int], tokens: Sequence[int], forced: Sequence[bool]) -> None:
        """Record the newest token of each completion."""
        for i, token, was_forced in zip(items, tokens, forced, strict=True):
            self._lengths[i] += 1
            if was_forced:
                self._forced[i].append(self._lengths[i] - 1)
                continue
            if token == self.tool.call_start:
                self._open_calls[i] = []
            elif token == self.tool.call_end and i in self._open_calls:
                output = self.tool.answer(self._open_calls.pop(i))
                self._pending[i].extend([self.tool.output_start, *output, self.tool.output_end])
            elif i in self._open_calls:
                self._open_calls[i].append(token)
