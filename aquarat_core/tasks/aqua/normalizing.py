r"""Brings crowd-written rationales into one form: one step on each line, one sign for each operation, nothing else.

Every rule has a name under which its uses are counted, and changes only what is certain: numbers and the order of
operations stay as they were written. The rules, in order:

    encoding       UTF-8 that was read as Windows-1252 is read again, and a lone "è" is the arrow that it was
    signs          signs and LaTeX commands of multiplication, division and subtraction, fractions in LaTeX, and "x"
                   between two numbers become * / - and a/b
    labels         "Explanation:" at the beginning, "Solution:" on a line of its own, "Hope it helps", lines of dashes
    marks          "=>", "⇒", "∴" and "\" at the ends of a line, where the line break says the same
    lines_joined   a line that begins with "=" or ends in an operator belongs to the one beside it
    lines_split    sentences and implications ("⇒" between equations) get a line each
    spacing        one space around "="
    repeated_line  a line that says what the one before it said
    answer_first   a first line that is nothing but the right option, before any reasoning

Whether a rationale reaches the right option is found out afterwards (`reach`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from aquarat_core.tasks.aqua.reaching import Reach, plain, reach
from aquarat_core.tasks.aqua.signs import one_sign

_MISREAD = re.compile(r"[\u0080-\uffff]{2,}")
_LOST_ARROW = re.compile(r"(?:(?<=\s)|^)\u00e8(?=\s)", re.MULTILINE)
"""The code of an arrow in a font of symbols, between spaces."""
_ARROW = r"(?:[=\-~]+\s?>+|[\u21d2\u2192])"
_LEADING_MARK = re.compile(rf"^(?:(?:{_ARROW}|\u2234|\\(?![A-Za-z]))\s*)+(?=\S)", re.MULTILINE)
_TRAILING_MARK = re.compile(rf"(?<=\S)(?:\s*(?:{_ARROW}|\\))+$", re.MULTILINE)
_LABEL = r"(?:(?:detailed|brief|short|quick)\s)?(?:explanations?|solution|soln|sol|working|rationale)"
_FIRST_LABEL = re.compile(rf"\A(?i:{_LABEL})\s?(?:[:.\u2013\-]+\s*|\n)(?=\S)")
_LABEL_LINE = re.compile(rf"^(?:(?i:{_LABEL})\s?[:.\u2013\-]*|[\-=_*~.#\s]{{3,}})$")
_FAREWELL = re.compile(r"^(?i:(?:i\s)?hope (?:it|this|that) helps?|thanks|cheers|kudos(?: please)?)[.!\s:)]*$")
_BEGINS_INSIDE = re.compile(r"[=+*/](?!>)")
_ENDS_INSIDE = re.compile(r"[=+*/]$")
_ENDS_SENTENCE = re.compile(r"[.:;,!?]$")
_NO_END = frozenset({
    "rs", "no", "nos", "sq", "cu", "ft", "approx", "vs", "etc",
    "mr", "mrs", "dr", "st", "eq", "fig", "viz", "hrs", "hr", "min", "mins", "sec", "secs", "km", "lit", "ans",
})  # fmt: skip
"""Words before a period that does not end a sentence."""
_SENTENCE_END = re.compile(r"(?:(?<![A-Za-z])(?P<word>[A-Za-z]{2,})|(?<=[\d)%]))[.;]\s(?=[A-Z][a-z]|[A-Z]\s?=)")
_IMPLIES = re.compile(r"\s*(?:=+\s?>|\u21d2)\s*")
_EQUALS = re.compile(r"[^\S\n]*(?<![<>=!:~])=+(?![>=])[^\S\n]*")


@dataclass(frozen=True, slots=True)
class Normalized:
    """A rationale in one form."""

    text: str
    rules: tuple[str, ...]
    """The rules that changed it, in order."""
    reach: Reach
    """Whether it arrives at the right option."""


def normalize(rationale: str, options: tuple[str, ...], right: int) -> Normalized:
    """`rationale`, of which the answer's letter has been cut off, in one form; `right` is the index of the right
    option."""
    text = rationale
    used: list[str] = []
    for name, rule in RULES.items():
        after = rule(text, options[right])
        if after != text:
            used.append(name)
            text = after
    return Normalized(text, tuple(used), reach(text, options, right))


def _encoding(text: str, option: str) -> str:
    del option
    return _LOST_ARROW.sub("\u21d2", _MISREAD.sub(_read_again, text))


def _read_again(found: re.Match[str]) -> str:
    try:
        return found[0].encode("cp1252").decode("utf-8")
    except UnicodeError:
        return found[0]


def _signs(text: str, option: str) -> str:
    del option
    return one_sign(text)


def _labels(text: str, option: str) -> str:
    del option
    lines = _FIRST_LABEL.sub("", text).split("\n")
    kept = [line for line in lines if not _LABEL_LINE.match(line) and not _FAREWELL.match(line)]
    return "\n".join(kept) or text


def _marks(text: str, option: str) -> str:
    del option
    return _TRAILING_MARK.sub("", _LEADING_MARK.sub("", text))


def _joined(text: str, option: str) -> str:
    del option
    found: list[str] = []
    for line in text.split("\n"):
        goes_on = _BEGINS_INSIDE.match(line) and not _ENDS_SENTENCE.search(found[-1]) if found else False
        if found and (goes_on or _ENDS_INSIDE.search(found[-1])):
            found[-1] = f"{found[-1]} {line}"
        else:
            found.append(line)
    return "\n".join(found)


def _split(text: str, option: str) -> str:
    del option
    return "\n".join(step for line in text.split("\n") for part in _sentences(line) for step in _implied(part))


def _sentences(line: str) -> list[str]:
    found: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(line):
        if (end["word"] or "").lower() not in _NO_END:
            found.append(line[start : end.end() - 1])
            start = end.end()
    return [*found, line[start:]]


def _implied(line: str) -> list[str]:
    """The parts of "a = b => c = d"; "x => 5" is kept, because it may mean "at least"."""
    parts = _IMPLIES.split(line)
    return parts if len(parts) > 1 and all("=" in part for part in parts) else [line]


def _spacing(text: str, option: str) -> str:
    del option
    return "\n".join(_EQUALS.sub(" = ", line).strip() for line in text.split("\n"))


def _repeated(text: str, option: str) -> str:
    del option
    lines = text.split("\n")
    return "\n".join(line for i, line in enumerate(lines) if i == 0 or line != lines[i - 1])


def _answer_first(text: str, option: str) -> str:
    first, _, rest = text.partition("\n")
    return rest if rest and plain(first) == plain(option) else text


RULES: dict[str, Callable[[str, str], str]] = {
    "encoding": _encoding,
    "signs": _signs,
    "labels": _labels,
    "marks": _marks,
    "lines_joined": _joined,
    "lines_split": _split,
    "spacing": _spacing,
    "repeated_line": _repeated,
    "answer_first": _answer_first,
}
"""What is done to a rationale, given the right option, by the name of the rule; in this order."""
