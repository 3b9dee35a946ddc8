"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al. 2021, arXiv 2110.14168).

The published solutions end in a line `#### 72`, and so must a completion. The same hostile cases as for letters are
decided here: no answer, a second one, a unit, text after it or a number anywhere else earn nothing (docs/tasks.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from aquarat_core.conversation import Conversation, Message, user_message
from aquarat_core.data.conversations import read_conversations
from aquarat_core.errors import DataError
from aquarat_core.tasks.calls import annotated_message
from aquarat_core.tasks.source import HubSource, Row, text_of
from aquarat_core.tasks.task import Attempt, Example, FilePath, Grade, Origin, Task

MARKER = "#### "
_ANSWER_LINE = re.compile(r"#### (-?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.[0-9]+)?)")
_ANY_MARKER = re.compile(r"[#\uff03]{2,}")
"""Wider than the accepted form on purpose: a second answer, in whatever form, makes a text ambiguous."""
MAX_DIGITS = 30
"""Longer numbers are never a real answer, and comparing them exactly takes time."""


def conversation(row: Row) -> list[Message]:
    """The solution keeps its last line `#### 18`, and its annotations `<<48/2=24>>` become calls of the calculator."""
    return [user_message(text_of(row, "question").strip()), annotated_message(text_of(row, "answer").strip())]


SOURCE = HubSource("openai/gsm8k", ("main",), "train", "test", ("question", "answer"), conversation)


def count_markers(text: str) -> int:
    """How often `text` announces an answer: every run of two or more number signs."""
    return len(_ANY_MARKER.findall(text))


def parse_number(text: str) -> Decimal | None:
    """The number that `text` answers, or None.

    Exactly one marker must be in the text, and `#### 1,234.5` must be the whole of the last line that is not empty:
    ASCII digits, commas at every third place or nowhere, no sign but a minus, no unit, no percent, no fraction.
    """
    last_line = text.rstrip(" \t\r\n").rpartition("\n")[2]
    match = _ANSWER_LINE.fullmatch(last_line)
    if not match or count_markers(text) != 1 or len(match[1]) > MAX_DIGITS:
        return None
    return Decimal(match[1].replace(",", ""))


def number_text(number: Decimal) -> str:
    """The one way in which a number is shown: no commas, no zeros after the last digit of a fraction."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def to_example(row: Conversation) -> Example[Decimal]:
    """A conversation of this data set as an example. Raises `DataError` unless its solution ends in its answer."""
    *messages, reply = row.messages
    answer = parse_number(reply["content"])
    if reply["role"] != "assistant" or not messages or answer is None:
        raise DataError(f"{row.id} is no GSM8K problem: its solution does not end in a line {MARKER!r} and a number")
    return Example(
        id=row.id,
        messages=tuple(messages),
        target=reply["content"],
        answer=answer,
        reference=number_text(answer),
        target_parts=tuple(reply.get("parts", ())),
    )


class Gsm8kTask(Task[Decimal]):
    """A worked solution and a number, compared by value."""

    name = "gsm8k"
    answer_form = f"{MARKER!r} and a number as the last line"
    grading_module = "aquarat_core.tasks.gsm8k"
    notes = ("ambiguous",)
    origins: Mapping[str, Origin] = {"hub": Origin("GSM8K")}

    def examples(self, path: FilePath, split: str) -> list[Example[Decimal]]:
        """Of the file that `chat_datasets` writes under the task's name; its splits are train and test."""
        return [to_example(row) for row in read_conversations(path(f"{self.name}.{split}.parquet"))]

    def grade(self, example: Example[Decimal], completion: str, ended: bool) -> Grade:
        """1 for a number equal to the right one, said once, at the end, with the stop token; otherwise 0."""
        number = parse_number(completion) if ended else None
        correct = number is not None and number == example.answer
        answer = None if number is None else number_text(number)
        return Grade(float(correct), correct, answer, {"ambiguous": float(count_markers(completion) > 1)})

    def answer_text(self, answer: str) -> str:
        return f"{MARKER}{answer}"

    def worthless(self, example: Example[Decimal]) -> Mapping[str, Attempt]:
        solution = (example.target or "").rpartition("\n")[0]
        number, other = example.reference, number_text(example.answer + 1)
        right, wrong = f"{MARKER}{number}", f"{MARKER}{other}"
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
