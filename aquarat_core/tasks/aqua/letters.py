"""How published rows write the letter of an option: before an option, and as the answer within a rationale.

Every quantifier that could backtrack is possessive or bounded, and statements are searched for in a window of fixed
size at each end of a text, so the time is linear in the length of the text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aquarat_core.tasks.aqua.question import LETTERS

WINDOW = 240
"""Size of the window at either end of a rationale in which one answer statement is searched for, in characters."""

_STRICT = re.compile(r"\s*+(?:\(\s?([A-E])\s?\)|([A-E])\s?\))")
_LOOSE = {
    "lower case": re.compile(r"\s*+(?:\(\s?([a-e])\s?\)|([a-e])\s?\))"),
    "square": re.compile(r"\s*+\[\s?([A-Ea-e])\s?\]()"),
    "dot": re.compile(r"\s*+([A-Ea-e])\s?\.(?!\d)()"),
    "colon": re.compile(r"\s*+([A-Ea-e])\s?[:\uff1a]()"),
    "full width": re.compile(r"\s*+\uff08?([A-Ea-e])\uff09()"),
}
"""Forms that may also be ordinary text: "a) 1" and "A. 1" are prefixes only if all five options have the same form."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The letter prefix of an option."""

    length: int
    """Number of characters in the prefix; 0 if there is none."""
    doubled: bool = False
    misplaced: bool = False
    """Whether the letter does not match the option's position."""


def prefixes(options: Sequence[str]) -> list[Prefix]:
    """The prefix of each of five published options.

    "A)", "(A)" and "A )" always count; "A." "A:" "[A]" and small letters only if all five options have them. A
    second "A)" right after the first is a slip and is part of the prefix; "(A)" after a prefix is content ("A)(A)
    only").
    """
    for form in _LOOSE.values():
        matches = [form.match(option) for option in options]
        letters = [((m[1] or m[2]) if m else "").upper() for m in matches]
        if sorted(letters) == list(LETTERS):
            return [
                Prefix(m.end(), misplaced=x != y)
                for m, x, y in zip(matches, letters, LETTERS, strict=True)
                if m is not None
            ]
    return [_strict(option, letter) for option, letter in zip(options, LETTERS, strict=True)]


def _strict(option: str, letter: str) -> Prefix:
    match = _STRICT.match(option)
    if not match:
        return Prefix(0)
    found = match[1] or match[2]
    if found != letter:
        return Prefix(0, misplaced=True)
    end, doubled = match.end(), False
    while (again := _STRICT.match(option, end)) and again[2] == letter:
        end, doubled = again.end(), True
    return Prefix(end, doubled)


_SO = r"(?:(?:so|hence|thus|therefore|then|and|∴)(?![A-Za-z])[\s,:]*+)"
_LEAD = rf"{_SO}*+(?:(?:the|our|my|correct|right|final|required|best)\s++)*+"
_NOUN = r"(?:answer|ans|option|choice)(?:\s++(?:choice|option|letter)(?![A-Za-z]))?+"
_SIGN = r":\uff1a=>\u21d2\u2192\u2013\u2014\-,."
_OPEN = r"(?:[\[(\uff08{\"'*$_`\u201c\u2018\s]|\\(?:boxed|text|textbf|mathrm|mathbf)\s?(?=\{)|\\[(\[])*+"
_CLOSE = r"(?:[\])\uff09}\"'*$_`\u201d\u2019.,;!\s]|\\[)\]])*+"
_CLOSE_LINE = r"(?:[\])\uff09}\"'*$_`\u201d\u2019. ]|\\[)\]])*+"
_OPTION = rf"(?:(?:option|choice|letter)(?![A-Za-z])[\s:\uff1a\-]*+)?+{_OPEN}"
_IS = r"(?:(?:is|are|will\s+be|would\s+be|should\s+be|must\s+be)(?![A-Za-z]))?+"
_LINK = rf"[\s.,*]*+{_IS}[\s*{_SIGN}]*+{_OPEN}{_OPTION}"
_UPPER = r"[A-E](?![A-Za-z0-9])"
_LOWER = r"(?<![A-Za-z0-9])[a-e](?![A-Za-z0-9])"
_EITHER = rf"(?P<letter>{_UPPER}|{_LOWER})"
_CLOSING = r"(?:is\s++(?:the\s++|our\s++)?+(?:correct|right|true|answer)(?:\s++(?:answer|option|choice))?+)?+[\s.!*)]*+"

TAILS = (
    # "... Hence, the answer is (D)."   anywhere in the last line
    re.compile(rf"(?<![A-Za-z])(?i:{_LEAD}{_NOUN}{_LINK}){_EITHER}{_CLOSE}(?i:{_CLOSING})\Z"),
    # "... Thus, C is the correct answer."
    re.compile(
        rf"(?<![A-Za-z])(?i:{_LEAD}){_OPEN}(?P<letter>{_UPPER}){_CLOSE}"
        r"(?i:is\s++(?:the\s++)?+(?:correct|right|answer)\b[\w\s]*+)[\s.!]*+\Z"
    ),
    re.compile(
        rf"(?<![A-Za-z])(?i:{_LEAD}){_OPEN}(?P<letter>{_LOWER}){_CLOSE}"
        r"(?i:is\s++(?:the\s++)?+(?:correct\s++|right\s++)?+(?:answer|option|choice)\b[\w\s]*+)[\s.!]*+\Z"
    ),
    # "Therefore a is correct": a small letter only after a concluding word, because it may be the name of a number
    re.compile(
        rf"(?<![A-Za-z])(?i:{_SO}++){_OPEN}(?P<letter>{_LOWER}){_CLOSE}(?i:is\s++(?:the\s++)?+(?:correct|right))[\s.!]*+\Z"
    ),
    # a last line that starts with the answer and repeats the option: "Answer: D) 109 rolls"
    re.compile(
        rf"(?:\A|\n)\s*+(?i:{_LEAD}(?:answer|ans){_LINK})(?P<letter>{_UPPER}|{_LOWER}(?=\s?[)\]}}.:]))"
        rf"{_CLOSE_LINE}[^\n]{{0,40}}+\Z"
    ),
    # "\boxed{A}", "x = 3 => A"
    re.compile(rf"(?:\$*+\\boxed\s?\{{|(?:=>|\u21d2|\u2192)){_OPEN}{_EITHER}{_CLOSE}\Z"),
    # "Hence, (A)", "Thus A"
    re.compile(rf"(?:\A|(?<=[\n.;!,]))\s*+(?i:{_SO}++){_OPEN}{_OPTION}(?P<letter>{_UPPER}){_CLOSE}\Z"),
    # a bare letter on the last line
    re.compile(rf"(?:\A|\n)\s*+{_OPEN}(?P<letter>{_UPPER}|(?<=[(\[{{]){_LOWER}(?=[)\]}}])){_CLOSE}\Z"),
)
_VERDICT = r"(?:is\s++(?:the\s++|our\s++)?+(?:correct|right|true|answer)(?:\s++(?:answer|option|choice))?+[ .!]*+)"
HEADS = (
    # A first line that is the answer is removed entirely if more lines follow, else only up to the letter.
    re.compile(
        rf"\s*+(?i:{_LEAD}(?:answer|ans)(?![A-Za-z])\s*+[{_SIGN}]\s*+{_OPEN}{_OPTION})"
        rf"(?P<letter>{_UPPER}|{_LOWER}(?=\s?[)\]}}\n])){_CLOSE_LINE}"
        rf"(?:[^\n]{{0,40}}+\n|[\s.,{_SIGN}]*+)"
    ),
    # a first line that says nothing but the answer, without a colon: "the answer is D", "Option(B) is correct"
    re.compile(rf"\s*+(?i:{_LEAD}{_NOUN}{_LINK})(?P<letter>{_UPPER}){_CLOSE_LINE}(?i:{_VERDICT})?+(?:\n|\Z)"),
    re.compile(
        rf"\s*+(?i:{_LEAD}){_OPEN}(?P<letter>{_UPPER}|(?<=[(\[]){_LOWER}(?=[)\]])){_CLOSE_LINE}(?i:{_VERDICT})(?:\n|\Z)"
    ),
    # a bare letter on the first of several lines
    re.compile(rf"\s*+{_OPEN}(?P<letter>{_UPPER}){_CLOSE_LINE}\n"),
    # "Answer A) 10800 yards need ..."
    re.compile(rf"\s*+(?i:{_LEAD}(?:answer|ans)\s++{_OPTION})(?P<letter>{_UPPER})\s?[)\]]{_CLOSE_LINE}"),
)
"""Statements at the beginning of a rationale."""
SPELT_OUT = re.compile(
    r"(?:\A|\n)\s*+(?i:(?:the\s++)?+(?:correct\s++|final\s++)?+(?:answer|ans))\s*+[:\uff1a=\u2013-]\s*+(?P<text>[^\n]++)\Z"
)
OPTION_LINE = re.compile(rf"{_OPEN}(?P<letter>{_UPPER})[\s)\]}}.:,\-]++")
"""The letter before an option's text on a line that repeats the option: "B 360", "D) 60 square metres"."""
LAST_CAPITAL = re.compile(rf"[\s=:>,.\-]*+{_OPEN}(?<![A-Za-z0-9])(?P<letter>{_UPPER}){_CLOSE}\Z")
"""A capital that ends the text: an answer only if it is not a name in the question."""

_SAID = re.compile(
    r"(?<![A-Za-z])(?i:answer|ans)(?![A-Za-z])[^A-Za-z0-9]{0,9}(?i:(?:is|are|be|will|option|choice)(?![A-Za-z])"
    rf"[^A-Za-z0-9]{{0,9}}){{0,3}}(?P<letter>{_UPPER}|{_LOWER}(?=\s?[)\]}}.]|[^A-Za-z0-9]{{0,9}}\Z))"
)
_FILLER = (
    "is|are|be|will|would|should|must|can|could|only|on|this|one|the|these|to|for|in|of|question|problem|here|that"
    "|correct|right|best|letter|option|choice|options|choices|therefore|so|thus|hence|clearly|both|either|just|test|try"
)
_MENTIONED = re.compile(
    rf"(?<![A-Za-z])(?i:answers?|ans)(?:[^A-Za-z0-9\n]{{1,4}}(?i:{_FILLER})(?![A-Za-z])){{0,8}}+[^A-Za-z0-9\n]{{0,4}}"
    rf"(?P<letter>{_UPPER})"
)
_CHOSEN = re.compile(
    rf"(?<![A-Za-z])(?i:pick|picks|picked|choose|chosen?|select|selected|mark|tick|go\s(?:with|for)|leaves(?:\sus)?|gives\sus)"
    rf"(?:[^A-Za-z0-9\n]{{1,4}}(?i:{_FILLER})(?![A-Za-z])){{0,4}}+[^A-Za-z0-9\n]{{1,4}}(?P<letter>{_UPPER})"
)
_JUDGED = re.compile(
    rf"(?<![A-Za-z0-9])(?P<letter>{_UPPER})[^A-Za-z0-9\n]{{1,4}}"
    r"(?i:fits|works|satisfies|is\s(?:the\s|our\s)?(?:only|correct|right|answer|best|odd))(?![A-Za-z])"
)
_ALONE = re.compile(rf"^[\[({{\"'*$ ]*+(?P<letter>{_UPPER})[\])}}\"'*$. ]*+$", re.MULTILINE)
_BOXED = re.compile(rf"\\boxed\s?\{{{_OPEN}{_EITHER}")
_A = re.compile(r"(?<![A-Za-z0-9])A(?![A-Za-z0-9])")
_STANDALONE = re.compile(rf"(?<![A-Za-z0-9]){_UPPER}")


_ARTICLE = re.compile(
    r"(?:\A|(?<=[.?!:\n\"'] )|(?<=[\n\"'(]))A (?!(?:and|is|are|was|has|had|can|could|does|did|do|will|would|to|or|in|at"
    r"|of|from|by|for|with|as|alone|gets|takes|if|then|on|the|that|who|whose)\b)[a-z]"
)


def named(text: str) -> set[str]:
    """The capitals A to E that stand alone in `text`: people, places, sets or points that a question is about.

    The article "A", which begins a sentence, does not count, unless B to E are named too.
    """
    names = set(_STANDALONE.findall(text))
    if names == {"A"} and len(_ARTICLE.findall(text)) == len(_A.findall(text)):
        return set()
    return names


def letter_left(rationale: str, names: set[str]) -> bool:
    """Whether a stripped rationale still seems to name the right letter; `names` are letters with other meanings.

    Looser than the patterns that strip statements, so its hits show what those patterns miss.
    """
    last = LAST_CAPITAL.search(rationale, max(0, len(rationale) - WINDOW))
    patterns = (_SAID, _MENTIONED, _CHOSEN, _JUDGED, _ALONE, _BOXED)
    found = [last, *(match for pattern in patterns for match in pattern.finditer(rationale))]
    return any(m["letter"].upper() not in names for m in found if m)
