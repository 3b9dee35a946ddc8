"""MMLU: multiple-choice questions of 57 subjects (Hendrycks et al. 2021, arXiv 2009.03300)."""

from collections.abc import Mapping

from aquarat_core.tasks.multiple_choice import Choice, MultipleChoiceTask, choice_example
from aquarat_core.tasks.source import HubSource, Row, number_of, text_of, texts_of
from aquarat_core.tasks.task import Example, Origin

CHOICES = 4


def example(row: Row, name: str) -> Example[Choice]:
    """Converts a row; `answer` counts the choices from 0."""
    choice: Choice = {
        "question": text_of(row, "question"),
        "options": texts_of(row, "choices"),
        "correct": number_of(row, "answer"),
        "rationale": None,
    }
    return choice_example(name, choice)


SOURCE = HubSource(
    "cais/mmlu", ("all",), "auxiliary_train", "test", ("question", "choices", "answer"), example=example,
    validation="validation",
)  # fmt: skip


class MmluTask(MultipleChoiceTask):
    """Four choices; the training split comes from other exams."""

    origins: Mapping[str, Origin] = {"hub": Origin("MMLU")}

    def __init__(self) -> None:
        super().__init__("mmlu", CHOICES)
