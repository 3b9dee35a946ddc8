"""MMLU: multiple-choice questions of 57 subjects (Hendrycks et al. 2021, arXiv 2009.03300)."""

from aquarat_core.conversation import Message
from aquarat_core.tasks.multiple_choice import choice_conversation
from aquarat_core.tasks.source import HubSource, Row, number_of, text_of, texts_of


def conversation(row: Row) -> list[Message]:
    """`answer` counts the choices from 0."""
    return choice_conversation(text_of(row, "question"), texts_of(row, "choices"), number_of(row, "answer"))


SOURCE = HubSource("cais/mmlu", ("all",), "auxiliary_train", "test", ("question", "choices", "answer"), conversation)
