"""Questions whose answer is a number: the strict parser, and the task for a user's own questions of this kind.

A completion must end with a line in GSM8K's form, `#### 72`. Parsers that take the first or the last number reward
texts that list numbers; docs/tasks.md states what each hostile form earns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, localcontext

from aquarat_core.conversation import user_message
from aquarat_core.errors import DataError
from aquarat_core.tasks.calls import annotated_message
from aquarat_core.tasks.example_files import StoredTask
from aquarat_core.tasks.source import without_answers
from aquarat_core.tasks.task import A, Attempt, Example, Grade, Task

MARKER = "#### "
_NUMBER = r"-?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.[0-9]+)?"
_ANSWER_LINE = re.compile(rf"#### ({_NUMBER})")
_ANY_MARKER = re.compile(r"[#\uff03]{2,}")
"""Broader than the accepted form on purpose: a second answer, in any form, makes a text ambiguous."""
MAX_DIGITS = 30
"""Longer numbers are never a real answer, and comparing them exactly takes time."""
INSTRUCTION = 'Reply with "#### " and the number.'
REASONING_INSTRUCTION = 'Reason step by step, then end with "#### " and the number.'


def count_markers(text: str) -> int:
    """How often `text` announces an answer, counting every run of two or more number signs."""
    return len(_ANY_MARKER.findall(text))


def number_of(text: str) -> Decimal | None:
    """The number that the whole of `text` denotes; None if it is not a number.

    ASCII digits, commas at every third digit or nowhere, no sign except a minus, no unit, percent sign or fraction.
    """
    return Decimal(text.replace(",", "")) if re.fullmatch(_NUMBER, text) and len(text) <= MAX_DIGITS else None


def parse_number(text: str) -> Decimal | None:
    """The number that `text` gives as its answer, or None.

    The text must contain exactly one marker, and its last non-empty line must be exactly like `#### 1,234.5`.
    """
    last_line = text.rstrip(" \t\r\n").rpartition("\n")[2]
    match = _ANSWER_LINE.fullmatch(last_line)
    return number_of(match[1]) if match and count_markers(text) == 1 else None


def number_text(number: Decimal) -> str:
    """The standard form in which a number is shown: no commas, no trailing zeros in a fraction."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def numeric_example(name: str, question: str, answer: str, rationale: str | None) -> Example[str]:
    """A question with its number and its solution (None if the data set has no solutions).

    Annotations as in GSM8K, `<<48/2=24>>`, become calls of the calculator.

    Raises `DataError` unless the answer is a number.
    """
    if (number := number_of(answer.strip())) is None:
        raise DataError(
            f"the answer {answer[:80]!r} is not a number (digits, a minus, commas at every third digit, a point)"
        )
    text = number_text(number)
    kept = without_answers(rationale or "", count_markers)
    instruction = INSTRUCTION if rationale is None else REASONING_INSTRUCTION
    target = f"{kept}\n{MARKER}{text}" if kept else f"{MARKER}{text}"
    reply = annotated_message(target)
    return Example(
        id=name,
        messages=(user_message(f"{question.strip()}\n{instruction}"),),
        target=reply["content"],
        answer=text,
        reference=text,
        target_parts=tuple(reply.get("parts", ())),
    )


class NumberTask(Task[A]):
    """Answers are numbers, compared by value; `reference` of an example is the right one.

    A number x is right for r if |x - r| <= tolerance * |r|; with a tolerance of 0 they must be equal.
    """

    answer_form = f"{MARKER!r} and a number as the last line"
    grading_module = "aquarat_core.tasks.numeric"
    notes = ("ambiguous",)
    tolerance = Decimal(0)

    def grade(self, example: Example[A], completion: str, ended: bool) -> Grade:
        """1 if a right number is given once, at the end, followed by the stop token; otherwise 0."""
        number, right = parse_number(completion) if ended else None, Decimal(example.reference)
        correct = number is not None and abs(number - right) <= self.tolerance * abs(right)
        answer = None if number is None else number_text(number)
        return Grade(float(correct), correct, answer, {"ambiguous": float(count_markers(completion) > 1)})

    def answer_text(self, answer: str) -> str:
        return f"{MARKER}{answer}"

    def worthless(self, example: Example[A]) -> Mapping[str, Attempt]:
        number, solution = example.reference, (example.target or "").rpartition("\n")[0]
        right, wrong = f"{MARKER}{number}", f"{MARKER}{self._other(Decimal(number))}"
        return {
            "the prompts alone": Attempt(example.prompt),
            "the solutions without an answer": Attempt(solution),
            "the bare right numbers": Attempt(number),
            "wrong answers": Attempt(wrong),
            "the right answers cut off before the stop token": Attempt(right, ended=False),
            "the right answers without a space": Attempt(right.replace(" ", "")),
            "the right answers under another marker": Attempt(f"Answer: {number}"),
            "the right answers with a unit": Attempt(f"{right} dollars"),
            "the right answers with a currency sign": Attempt(f"{MARKER}${number}"),
            "the right answers in percent": Attempt(f"{right}%"),
            "the right answers as unfinished sums": Attempt(f"{right}+0"),
            "the right answers followed by wrong ones": Attempt(f"{right}\n{wrong}"),
            "wrong answers followed by the right ones": Attempt(f"{wrong}\n{right}"),
            "the right answers twice": Attempt(f"{right}\n{right}"),
            "the right answers with text after them": Attempt(f"{right}\nThat is all."),
        }

    def _other(self, right: Decimal) -> str:
        """A wrong number, outside the tolerance."""
        # The usual 28 digits would round away a difference of 1 in a number with MAX_DIGITS.
        with localcontext(prec=2 * MAX_DIGITS):
            return number_text(right + 2 * self.tolerance * abs(right) + 1)


class NumericTask(NumberTask[str], StoredTask[str]):
    """A profile's own questions with numbers; the `answer` of an example is the number's text."""

    def __init__(self, name: str, tolerance: float) -> None:
        self.name, self.tolerance = name, Decimal(str(tolerance))
