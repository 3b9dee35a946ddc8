"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al. 2021, arXiv 2110.14168).

The published solutions end in a line `#### 72`, and so must a completion. The same hostile cases as for letters are
decided here: no answer, a second one, a unit, text after it or a number anywhere else earn nothing (docs/tasks.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from aquarat_core.conversation import Conversation, Message, user_message
from aquarat_core.data.conversations import read_conversations
from aquarat_core.errors import DataError
from aquarat_core.tasks.calls import annotated_message
from aquarat_core.tasks.numeric import MARKER, count_markers, number_text, parse_number, worthless_numbers
from aquarat_core.tasks.source import HubSource, Row, text_of
from aquarat_core.tasks.task import Attempt, Example, FilePath, Grade, Origin, Task


def conversation(row: Row) -> list[Message]:
    """The solution keeps its last line `#### 18`, and its annotations `<<48/2=24>>` become calls of the calculator."""
    return [user_message(text_of(row, "question").strip()), annotated_message(text_of(row, "answer").strip())]


SOURCE = HubSource("openai/gsm8k", ("main",), "train", "test", ("question", "answer"), conversation)


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
    grading_module = "aquarat_core.tasks.numeric"
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
        return worthless_numbers(example, number_text(example.answer + 1))
