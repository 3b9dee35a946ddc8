"""Finds and cuts off the answer that a crowd-written rationale gives away.

AQuA-RAT's rationales end (some begin) with the answer letter in dozens of forms: "ANSWER:B", "Ans is (C).", "Thus, C
is the correct answer", "Answer: D) 109 rolls", a bare "E". The model should learn only one form, that of
`question.target`. The patterns for these forms are in `letters`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aquarat_core.tasks.aqua.letters import HEADS, LAST_CAPITAL, OPTION_LINE, SPELT_OUT, TAILS, WINDOW, named
from aquarat_core.tasks.aqua.question import LETTERS
from aquarat_core.tasks.choice import ANY_MARKER

_DANGLING = re.compile(r"(?:\A|[\s,;:])(?i:so|hence|thus|therefore|ans|answer|the\s+answer\s+is)[\s:\uff1a,=]*+\Z")
_INNER_MARKER = re.compile(rf"({ANY_MARKER.pattern})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stripped:
    """A rationale without its answer."""

    text: str
    letters: tuple[str, ...]
    """Every letter that was given as the answer, in upper case and in the order found; empty if there was none."""
    rewritten: bool
    """Whether "answer:" in the middle was changed to "answer =", so that the answer line stays the only marker."""


def strip_answer(rationale: str, options: Sequence[str], question: str | None = None) -> Stripped:
    """`rationale` without answer statements at its end and beginning; `options` as cleaned, in published order.

    With `question`, a capital that merely ends the text ("= 3 = C") is an answer too, unless the question or the rest
    of the rationale uses that letter as a name. The time is linear in the length of the text.
    """
    text = rationale.strip()
    letters: list[str] = []
    end = len(text)
    while True:
        start = max(0, end - WINDOW)
        window = text[start:end].rstrip()
        letter, at = _tail(window, options, start > 0)
        if letter is None:
            break
        letters.append(letter)
        end = start + len(_without_dangling(window[:at]))
    text = text[:end].rstrip()
    if question is not None and (last := _last_capital(text, question)):
        letters.append(last["letter"])
        text = _without_dangling(text[: last.start()])
    if head := next((match for pattern in HEADS if (match := pattern.match(text[:WINDOW]))), None):
        letters.append(head["letter"].upper())
        text = text[head.end() :]
    text, repeated = _without_option_line(text, options)
    letters += repeated
    text = _without_dangling(text)
    rewritten = _INNER_MARKER.sub(lambda marker: f"{marker[0][:6]} = ", text)
    return Stripped(rewritten, tuple(letters), rewritten != text)


def _without_dangling(text: str) -> str:
    """`text` without a final "hence" or "ans:" that is no longer followed by anything."""
    text = text.rstrip()
    start = max(0, len(text) - WINDOW)
    if match := _DANGLING.search(text[start:]):
        return text[: start + match.start()].rstrip()
    return text


def _tail(window: str, options: Sequence[str], cut: bool) -> tuple[str | None, int]:
    """The answer letter that the end of `window` states, and where that statement starts.

    `cut` means that text precedes the window: a match at its very start is then not the start of a line.
    """
    for pattern in TAILS:
        if (match := pattern.search(window)) and not (cut and match.start() == 0):
            return match["letter"].upper(), match.start()
    if (match := SPELT_OUT.search(window)) and not (cut and match.start() == 0):
        given = match["text"].strip(" .").casefold()
        same = [letter for letter, option in zip(LETTERS, options, strict=False) if option.casefold() == given]
        if len(same) == 1:
            return same[0], match.start()
    return None, len(window)


def _without_option_line(text: str, options: Sequence[str]) -> tuple[str, list[str]]:
    """`text` without a first or last line that repeats an option with its letter, and the letters removed.

    If the first line continues after the option, or is the whole text, only the letter is removed. If lines repeat
    several options, the text discusses all of them, and none is the answer.
    """
    lines = text.split("\n")
    found = {i: line for i in range(len(lines)) if (line := _option_line(lines[i], options))}
    if len({line.letter for line in found.values()}) != 1:
        return text, []
    letters: list[str] = []
    last = len(lines) - 1
    if first := found.get(0):
        letters.append(first.letter)
        lines[0] = "" if first.whole and last else lines[0][first.text :]
    if last and (line := found.get(last)) and line.whole:
        letters.append(line.letter)
        lines[last] = ""
    return "\n".join(lines).strip(), letters


@dataclass(frozen=True, slots=True)
class _OptionLine:
    letter: str
    text: int
    """Where the option's text begins."""
    whole: bool
    """True if only punctuation follows the option's text on the line."""


def _option_line(line: str, options: Sequence[str]) -> _OptionLine | None:
    match = OPTION_LINE.match(line)
    if not match or not (option := dict(zip(LETTERS, options, strict=False)).get(match["letter"])):
        return None
    if match["letter"] == "A" and match[0].endswith("A ") and option[0].isalpha():  # the article
        return None
    said, rest = line[match.end() :][: len(option)], line[match.end() + len(option) :]
    if said.casefold() != option.casefold() or rest[:1].isalnum():
        return None
    return _OptionLine(match["letter"], match.end(), not rest.strip(" .)!"))


def _last_capital(text: str, question: str) -> re.Match[str] | None:
    match = LAST_CAPITAL.search(text, max(0, len(text) - WINDOW))
    if match and match["letter"] not in named(question) | named(text[: match.start()]):
        return match
    return None
