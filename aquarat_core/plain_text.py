"""Makes text from elsewhere safe to show in a terminal, in a table cell or in Markdown.

Run ids, profile names, file names and the output of jobs come from other machines. A terminal executes control
sequences in them (titles, clipboard, cursor movement), and a Markdown viewer fetches the images that they name.
"""

from __future__ import annotations

import re

_COLOR = re.compile(r"\x1b\[[0-9;:]*m")
# Control characters except tab and newline; line separators; characters that reverse the reading direction; surrogate
# halves, which cannot be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` without colors, and with every character that a terminal would interpret written as its escape, `\\u001b`.

    Tabs and newlines are kept.
    """
    return _UNSAFE.sub(_escape, _COLOR.sub("", text).replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """`printable(text)` with tabs and newlines also escaped."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def type_of(value: object) -> str:
    """The type of a value with its article: `an integer`, `a list`."""
    return "an integer" if type(value) is int else f"a {type(value).__name__}"


def fenced(text: str, language: str = "text") -> str:
    """`printable(text)` as a Markdown code block that nothing in `text` can end."""
    text = printable(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _escape(found: re.Match[str]) -> str:
    # Escaped as in JSON, so that JSON stays JSON.
    return "\\r" if found[0] == "\r" else f"\\u{ord(found[0]):04x}"
