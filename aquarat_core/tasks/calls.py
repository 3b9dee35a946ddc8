"""Worked solutions that compute with calls of the calculator.

They are written like GSM8K's: in `48/2 = <<48/2=24>>24 clips`, the brackets hold an expression and its result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aquarat_core.conversation import Message, Part, assistant_message, call_parts, parts_text, text_part
from aquarat_core.tasks.calculator import calculate

_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_EQUATION = re.compile(r"(?P<left>\d+(?:% of| [-+*/]) \d+) = (?P<result>\d+)")


class Call(NamedTuple):
    """A call of the calculator in place of a span of a text."""

    start: int
    end: int
    expression: str


def called_parts(text: str, calls: Iterable[Call]) -> list[Part]:
    """Splits a text into parts: each of `calls`, which are in order, and its output take the place of its span.

    The output is the calculator's own result, so it has the same tokens that generation inserts. A call without a
    result is left out with its span, because a call must not be taught with an output that the calculator would not
    give.
    """
    return list(_joined(text, calls))


def annotated_parts(text: str) -> list[Part]:
    """`called_parts` of an annotated text; an annotation with another result than the calculator's is left out."""
    return called_parts(text, map(_call, _ANNOTATION.finditer(text)))


def annotated_message(text: str) -> Message:
    """An annotated text as an assistant message; a plain message if it has no calls."""
    parts = annotated_parts(text)
    content = parts_text(parts)
    return assistant_message(content, parts if any(part["type"] == "call" for part in parts) else ())


def annotated(solution: str) -> str:
    """A generated solution with annotated equations: `12 + 7 = 19` becomes `12 + 7 = <<12+7=19>>19`."""

    def with_call(match: re.Match[str]) -> str:
        result = match["result"]
        expression = match["left"].replace("% of ", "/100*").replace(" ", "")
        return f"{match['left']} = <<{expression}={result}>>{result}"

    return _EQUATION.sub(with_call, solution)


def _call(annotation: re.Match[str]) -> Call:
    """The call of an annotation; one of nothing, which has no result, if the annotation gives another result."""
    expression, _, result = annotation[1].rpartition("=")
    right = calculate(expression) == calculate(result)
    return Call(annotation.start(), annotation.end(), expression if right else "")


def _joined(text: str, calls: Iterable[Call]) -> Iterator[Part]:
    """Calls, outputs, and the text between them, each in one piece."""
    said, at = "", 0
    for call in calls:
        said += text[at : call.start]
        at = call.end
        output = calculate(call.expression)
        if output is None:
            continue
        if said:
            yield text_part(said)
        said = ""
        yield from call_parts(call.expression, output)
    if said := said + text[at:]:
        yield text_part(said)
