"""Lettered choices: how they are listed, and the strict parser of an answer that names one by its letter.

A first-match or case-insensitive parser pays for the English article "a" and for every option that a text lists, and
reinforcement learning finds that out. So a text answers only if it says `Answer: X` exactly once, as its last line.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

MARKER = "Answer: "

_ANSWER_LINE = re.compile(r"Answer: ([A-Z])")
ANY_MARKER = re.compile(r"answer\s*[:\uff1a]", re.IGNORECASE)
"""Wider than the accepted form on purpose: a second answer, also after a full-width colon, makes a text ambiguous."""


def option_line(text: str, letter: str) -> str:
    """An option as it is listed, and as an answer repeats it.

    The letter comes after the text, so that who repeats the text finds the letter by going on as before: attention
    learns that early and reliably ("induction", Olsson et al. 2022, arXiv 2209.11895). The space makes the letter the
    very token that follows "Answer:" (" A").
    """
    return f"{text} = {letter}"


def option_lines(options: Sequence[str]) -> str:
    """One lettered line for each option."""
    return "\n".join(option_line(text, letter) for text, letter in zip(options, ascii_uppercase, strict=False))


def count_markers(text: str) -> int:
    """How often `text` announces an answer, in upper or lower case, with or without a space around the colon."""
    return len(ANY_MARKER.findall(text))


def parse_letter(text: str, letters: str) -> str | None:
    """Which of the capital `letters` the text answers, or None.

    Exactly one marker must be in the text, and `Answer: X` must be the whole of the last line that is not empty.
    No marker, several, a lower-case letter, two letters, look-alikes or anything after the letter give None.
    """
    last_line = text.rstrip(" \t\r\n").rpartition("\n")[2]
    match = _ANSWER_LINE.fullmatch(last_line)
    return match[1] if match and match[1] in letters and count_markers(text) == 1 else None
