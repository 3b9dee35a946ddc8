"""Lettered choices: how they are listed, and the strict parser of an answer letter.

A parser that takes the first match or ignores case rewards the English article "a" and texts that list every option,
and reinforcement learning exploits that. So a text only counts as an answer if it has `Answer: X` exactly once, as its
last line.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

MARKER = "Answer: "

_ANSWER_LINE = re.compile(r"Answer: ([A-Z])")
ANY_MARKER = re.compile(r"answer\s*[:\uff1a]", re.IGNORECASE)
"""Broader than the accepted form on purpose: a second answer, even with a full-width colon, makes a text ambiguous."""


def option_line(text: str, letter: str) -> str:
    """An option as it is listed, and as an answer repeats it.

    The letter follows the text, so that copying the option's text leads to its letter: attention learns this early
    and reliably ("induction", Olsson et al. 2022, arXiv 2209.11895). Because of the space, the letter is the same
    token (" A") that follows "Answer:".
    """
    return f"{text} = {letter}"


def option_lines(options: Sequence[str]) -> str:
    """One lettered line for each option."""
    return "\n".join(option_line(text, letter) for text, letter in zip(options, ascii_uppercase, strict=False))


def count_markers(text: str) -> int:
    """How often `text` announces an answer, in any case, with or without a space around the colon."""
    return len(ANY_MARKER.findall(text))


def parse_letter(text: str, letters: str) -> str | None:
    """The answer of the text, one of the capital `letters`, or None.

    The text must contain exactly one marker, and its last non-empty line must be exactly `Answer: X`. No marker,
    several markers, a lower-case letter, two letters, look-alikes or anything after the letter give None.
    """
    last_line = text.rstrip(" \t\r\n").rpartition("\n")[2]
    match = _ANSWER_LINE.fullmatch(last_line)
    return match[1] if match and match[1] in letters and count_markers(text) == 1 else None
