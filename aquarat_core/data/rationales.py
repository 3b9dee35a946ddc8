"""The answer that a crowd-written rationale gives away, found and cut off.

AQuA-RAT's rationales end (some begin) in the answer letter in dozens of shapes: "ANSWER:B", "Ans is (C).", "Thus, C
is the correct answer", "Answer: D) 109 rolls", a bare "E". The model is to learn one shape, that of
`tasks.aqua.target`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aquarat_core.tasks.answers import ANY_MARKER, LETTERS

_LEAD = r"(?:(?:so|hence|thus|therefore|and|∴)\b[\s,:]*)*(?:(?:the|our|my|correct|right|final|required)\s+)*"
_NOUN = r"(?:answer|ans|option|choice)(?:\s+(?:choice|option|letter))?"
_SIGN = r":=\u2013-"  # colon, equals, en dash, hyphen
_OPTION = r"(?:(?:option|choice|letter)[\s:-]*)?"
_LINK = rf"[\s.]*(?:is|are|will\s+be|would\s+be|should\s+be|must\s+be)?[\s{_SIGN}]*{_OPTION}"
_LETTER = r"[\[(\"']*(?P<letter>[A-E])(?![A-Za-z0-9])[\])\"'.]*"
_CLOSING = r"(?:\s+is\s+(?:the\s+)?(?:correct|right|true|answer)(?:\s+(?:answer|option|choice))?)?[\s.!]*"

_TAILS = (
    # "... Hence, the answer is (D)."   anywhere in the last line
    re.compile(rf"(?<![A-Za-z])(?i:{_LEAD}{_NOUN}{_LINK}){_LETTER}(?i:{_CLOSING})$"),
    # "... Thus, C is the correct answer."
    re.compile(rf"(?<![A-Za-z])(?i:{_LEAD}){_LETTER}\s+(?i:is\s+(?:the\s+)?(?:correct|right|answer)\b[\w\s]*)[\s.!]*$"),
    # a last line that starts with the answer and repeats the option: "Answer: D) 109 rolls"
    re.compile(rf"(?:^|\n)\s*(?i:{_LEAD}(?:answer|ans){_LINK}){_LETTER}[^\n]{{0,40}}$"),
    # a bare letter on the last line
    re.compile(rf"(?:^|\n)\s*{_LETTER}\s*$"),
)
# A first line that is the answer goes whole if more lines follow, else only up to the letter.
_HEAD = re.compile(
    rf"^\s*(?i:{_LEAD}(?:answer|ans)\b\s*[{_SIGN}]\s*{_OPTION}){_LETTER}(?:[^\n]{{0,40}}\n|[\s.,{_SIGN}]*)"
)
_SPELT_OUT = re.compile(
    rf"(?:^|\n)\s*(?i:(?:the\s+)?(?:correct\s+|final\s+)?(?:answer|ans))\s*[{_SIGN}]\s*(?P<text>[^\n]+)$"
)
_DANGLING = re.compile(r"(?:^|[\s,;:])(?i:so|hence|thus|therefore|ans|answer|the\s+answer\s+is)[\s:,=]*$")
_INNER_MARKER = re.compile(rf"({ANY_MARKER.pattern})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stripped:
    """A rationale without its answer."""

    text: str
    letters: tuple[str, ...]
    """Every letter that was given as the answer, in the order found; empty if none was."""
    rewritten: bool
    """Whether "answer:" in the middle became "answer =", so that the answer line stays the only marker."""


def strip_answer(rationale: str, options: Sequence[str]) -> Stripped:
    """`rationale` without answer statements at its end and beginning; `options` as cleaned, in published order."""
    text, letters = rationale.strip(), []
    while True:
        letter, start = _tail(text, options)
        if letter is None:
            break
        letters.append(letter)
        text = _DANGLING.sub("", text[:start].rstrip()).rstrip()
    if head := _HEAD.match(text):
        letters.append(head["letter"])
        text = text[head.end() :]
    text = _DANGLING.sub("", text).rstrip()
    rewritten = _INNER_MARKER.sub(lambda marker: f"{marker[0][:6]} = ", text)
    return Stripped(rewritten, tuple(letters), rewritten != text)


def _tail(text: str, options: Sequence[str]) -> tuple[str | None, int]:
    """The letter that the end of `text` gives as the answer and where that statement starts."""
    for pattern in _TAILS:
        if match := pattern.search(text):
            return match["letter"], match.start()
    if match := _SPELT_OUT.search(text):
        given = match["text"].strip(" .").casefold()
        same = [letter for letter, option in zip(LETTERS, options, strict=False) if option.casefold() == given]
        if len(same) == 1:
            return same[0], match.start()
    return None, len(text)
