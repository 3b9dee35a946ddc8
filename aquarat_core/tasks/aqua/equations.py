"""Puts calls of the calculator into the equations of a rationale that it computes: `EXPRESSION = NUMBER`.

An equation counts only if it is certain: the expression is a whole side, the calculator reads it, it has an operation,
and its exact value is both the number as it is written, apart from commas in thousands and zeros at the end, and what
the calculator prints. So nothing is rounded: neither `10/3 = 3.33` nor `2/3 = 0.666667` gets a call. Further decisions:

    x = 30/2 = 15        a chain: each sign is looked at for itself, and the last one counts
    5 + 3 = 8 - 2 = 6    the last sign alone; at the first, the right side is no number
    7x18 = 126           counts: with a variable between the digits the equation would be false
    2^3 * 5 = 40         counts; 4! and 3² do not, because the calculator does not read them
    1/4 * 100 = 25%      counts: on the right, a percent sign is a unit like any other, and the numbers agree
    50 * 20% = 10        does not: the calculator reads no percent
    100 * 4 = Rs. 400    counts, and the call stands between currency and number, as in GSM8K
    5 km + 3 km = 8 km   does not: no units within expressions
    1/4 + 1/4 = 1/2      does not: the calculator prints 0.5
    30 / 2 = 15x         does not: the right side has a variable; of letters without a space only units count (15km)
    5 + 3 = 8 squared    does not, nor does "negative 5 + 3": such words belong to the side
    2(5 + 3) = 16        does not: the calculator reads no multiplication without a sign
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from aquarat_core.conversation import parts_text
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.calculator import MAX_CHARS, calculate, exact_value
from aquarat_core.tasks.calls import Call, called_parts

_EQUALS = re.compile(r"(?<![<>=!:~])=(?![=>])")
_NUMBER = r"(?:(?:[1-9][0-9]{0,2}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
"""Digits are those of ASCII. Commas are those of thousands or lakhs ("1,20,000"); "3,4" is a list."""
_CURRENCY = r"(?:[$\u20b9\u20ac\u00a3]|Rs\.?)"
_UNIT = r"(?:\s?[%$\u00b0]|\s?(?:m[23\u00b2\u00b3]|[mghls])(?![A-Za-z\d])(?:/\s?[A-Za-z]+)?)"
"""Units of one letter; a letter that is none of them is a variable."""
_LONG_UNIT = (
    r"(?:km|cm|mm|sq|kg|gms?|kmph|kmh|kmhr|mph|mps|hrs?|mins?|secs?|ml|lit(?:re|er)s?|rs|units?|days?|hours?|minutes?"
    r"|seconds?|met(?:re|er)s?|years?)(?![A-Za-z])"
)
"""What may follow a number without a space; other letters there may be a product of variables ("15xy")."""
_FUNCTION = (
    r"(?i:log|ln|sin|cos|tan|cot|sqrt|root|pi|mod|modulo|modulus|of|times|plus|minus|negative|divided|multiplied|by"
    r"|over|choose|raised|squared|cubed|power|factorial|to\s+the\s+(?:[a-z]+\s+)?power)(?![A-Za-z])"
)
"""Words that make a number or an expression beside them a part of something longer."""
_RIGHT = re.compile(rf"[^\S\n]?(?:{_CURRENCY}[^\S\n]?)?(?P<number>-?{_NUMBER}){_UNIT}?")
_AFTER = re.compile(
    r"[^\S\n]*(?:$|[;)\]}=<>\u2248\u2260\u21d2\u2192]|[.,](?![\d.])|:(?!\s?\d))"
    rf"|(?i:{_LONG_UNIT})|[^\S\n]+\(?(?!{_FUNCTION})[A-Za-z]{{2}}",
    re.MULTILINE,
)
"""What may follow a side that is a number alone: the end of the line, a mark, the next sign or a word."""
_TIMES = re.compile(r"(?<=\d)[xX](?=\d)")
_IN_EXPRESSION = "0123456789.,+-*/^() "
_EARLIER_ITEMS = re.compile(r".*[.,]\s+")
"""Up to the last comma or period before a space, which is in no number."""
_OPERATION = re.compile(r"[\d)]\s*[-+*/^]")
_BEFORE = re.compile(rf"(?:[=<>\u2248\u21d2\u2192;,.?(]|(?<!\d)(?<!\d\s):|(?P<word>\b(?!{_FUNCTION})[A-Za-z]{{2,}}))\Z")
"""What may stand before an expression: the sign or mark where its side begins, or a word. A colon after a number is the
sign of a ratio."""
_UNFINISHED = re.compile(r"\b(?:raised|multiplied|divided)(?:\s+[a-z]+){1,4}\Z", re.IGNORECASE)
"""Words before an expression that apply an operation to it: "raised to the"."""
_WINDOW = 2 * MAX_CHARS
"""Characters before a sign among which its expression is searched."""


def with_calls(question: Question) -> Question:
    """The question with a call in each equation of its rationale; itself if there is none."""
    calls = list(equation_calls(question.rationale))
    if not calls:
        return question
    parts = called_parts(question.rationale, calls)
    return replace(question, rationale=parts_text(parts), rationale_parts=tuple(parts))


def equation_calls(text: str) -> Iterator[Call]:
    """The calls that compute equations of `text`, in order: each just before the number that it gives."""
    for sign in _EQUALS.finditer(text):
        right = _RIGHT.match(text, sign.end())
        if right is None or not _AFTER.match(text, right.end()):
            continue
        expression = _expression(text, sign.start())
        if expression and _is_exact(expression, Fraction(right["number"].replace(",", ""))):
            yield Call(right.start("number"), right.start("number"), expression)


def _is_exact(expression: str, number: Fraction) -> bool:
    """Whether the expression is exactly `number`, and the calculator prints all of its digits."""
    printed = calculate(expression)
    return printed is not None and exact_value(expression) == number == Fraction(printed)


def _expression(text: str, end: int) -> str | None:
    """The side that ends at `end`, as GSM8K's calls are written: without spaces, and without commas in numbers. None if
    it is not an expression with an operation."""
    begin = text.rfind("\n", 0, end) + 1
    line = _TIMES.sub("*", text[max(begin, end - _WINDOW) : end])
    side = _EARLIER_ITEMS.sub("", line[len(line.rstrip(_IN_EXPRESSION)) :]).lstrip()
    before = line[: len(line) - len(side)]
    if not before and begin < end - _WINDOW:
        return None
    side = side.strip()
    while side.startswith("(") and side.count("(") > side.count(")"):  # "(5 + 3 = 8)"
        side, before = side[1:].lstrip(), f"{before}("
    numbers = re.findall(r"[\d.,]+", side)
    if not _OPERATION.search(side) or "//" in side or not all(re.fullmatch(_NUMBER, number) for number in numbers):
        return None
    # Without its spaces "12 5" would be a number and "/ /" an operation, so the side is read as it is written first.
    return re.sub(r"[\s,]", "", side) if _begins(side, before) and calculate(side) is not None else None


def _begins(side: str, before: str) -> bool:
    """Whether nothing in the text before a side belongs to it."""
    said = before.rstrip()
    found = _BEFORE.search(said)
    if found is None:
        return not said
    if found["word"] and _UNFINISHED.search(said):
        return False
    return not found["word"] or (said != before and side[0] not in "+-")
