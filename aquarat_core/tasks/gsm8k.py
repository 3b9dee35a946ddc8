"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al. 2021, arXiv 2110.14168).

The published solutions end with a line `#### 72`, and so must a completion. As with letters, hostile forms earn
nothing: no answer, a second one, a unit, text after it or a number anywhere else (docs/tasks.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

from aquarat_core.conversation import Conversation, Message, user_message
from aquarat_core.data.conversations import iterate_conversations
from aquarat_core.errors import DataError
from aquarat_core.tasks.calls import annotated_message
from aquarat_core.tasks.numeric import MARKER, NumberTask, number_text, parse_number
from aquarat_core.tasks.source import HubSource, Row, text_of
from aquarat_core.tasks.task import Example, FilePath, Origin


def conversation(row: Row) -> list[Message]:
    """Keeps the solution's last line `#### 18` and turns its annotations `<<48/2=24>>` into calls of the calculator."""
    return [user_message(text_of(row, "question").strip()), annotated_message(text_of(row, "answer").strip())]


SOURCE = HubSource("openai/gsm8k", ("main",), "train", "test", ("question", "answer"), conversation)


def to_example(row: Conversation) -> Example[Decimal]:
    """Converts a conversation to an example. Raises `DataError` unless its solution ends with its answer."""
    *messages, reply = row.messages
    answer = parse_number(reply["content"])
    if reply["role"] != "assistant" or not messages or answer is None:
        raise DataError(f"{row.id} is not a GSM8K problem: its solution does not end in a line {MARKER!r} and a number")
    return Example(
        id=row.id,
        messages=tuple(messages),
        target=reply["content"],
        answer=answer,
        reference=number_text(answer),
        target_parts=tuple(reply.get("parts", ())),
    )


class Gsm8kTask(NumberTask[Decimal]):
    """The answer is a worked solution and a number."""

    name = "gsm8k"
    origins: Mapping[str, Origin] = {"hub": Origin("GSM8K")}

    def examples(self, path: FilePath, split: str) -> list[Example[Decimal]]:
        return list(self.iterate(path, split))

    def iterate(self, path: FilePath, split: str) -> Iterator[Example[Decimal]]:
        """Reads the file of conversations that `chat_datasets` writes under the task's name."""
        return map(to_example, iterate_conversations(path(f"{self.name}.{split}.parquet")))
