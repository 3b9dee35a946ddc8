"""Tools that a model calls while it generates: the tokens of a call, and the tokens of its output.

    <|python_start|> 12 * 7 <|python_end|>  then  <|output_start|> 84 <|output_end|>

The second half is not sampled: its tokens are forced, one per step. The only tool is the calculator; for a call that it
cannot evaluate, the output is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
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
    """Tracks the calls of a tool in one completion."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.forced: list[int] = []
        """Positions of the tool's tokens."""
        self._length = 0
        self._open: list[int] | None = None
        """Tokens so far of a call that has not ended."""
        self._pending: deque[int] = deque()

    def pending(self) -> int:
        """The next forced token; -1 if the model may sample one."""
        return self._pending.popleft() if self._pending else -1

    def observe(self, token: int, forced: bool) -> None:
        """Record the newest token."""
        self._length += 1
        if forced:
            self.forced.append(self._length - 1)
        elif token == self.tool.call_start:
            self._open = []
        elif token == self.tool.call_end and self._open is not None:
            output = self.tool.answer(self._open)
            self._open = None
            self._pending.extend([self.tool.output_start, *output, self.tool.output_end])
        elif self._open is not None:
            self._open.append(token)
