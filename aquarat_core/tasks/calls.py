"""Worked solutions that compute with calls of the calculator.

They are written like GSM8K's: in `48/2 = <<48/2=24>>24 clips`, the brackets hold an expression and its result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from aquarat_core.conversation import Message, Part, assistant_message, call_parts, parts_text, text_part
from aquarat_core.tasks.calculator import calculate

_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_EQUATION = re.compile(r"(?P<left>\d+(?:% of| [-+*/]) \d+) = (?P<result>\d+)")


def annotated_parts(text: str) -> list[Part]:
    """Splits an annotated text into parts: each annotation becomes a call and its output; the text around it stays.

    The output is the calculator's own result, so it has the same tokens that generation inserts. An annotation with
    another result, or without a valid expression, is left out, because a call must not be taught with an output that
    the calculator would not give.
    """
    return list(_joined(text))


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


def _joined(text: str) -> Iterator[Part]:
    """Calls, outputs, and the text between them, each in one piece."""
    said, at = "", 0
    for match in _ANNOTATION.finditer(text):
        said += text[at : match.start()]
        at = match.end()
        call, _, result = match[1].rpartition("=")
        output = calculate(call)
        if output is None or output != calculate(result):
            continue
        if said:
            yield text_part(said)
        said = ""
        yield from call_parts(call, output)
    if said := said + text[at:]:
        yield text_part(said)
