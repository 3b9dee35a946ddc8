"""ARC: grade-school science questions, three to five choices (Clark et al. 2018, arXiv 1803.05457)."""

from aquarat_core.errors import DataError
from aquarat_core.tasks.multiple_choice import Choice, MultipleChoiceTask, choice_example
from aquarat_core.tasks.source import HubSource, Row, mapping_of, text_of, texts_of
from aquarat_core.tasks.task import Example, Origin

MAX_CHOICES = 5


def example(row: Row, name: str) -> Example[Choice]:
    """Converts a row. Some rows label their choices 1-4; all choices are lettered by position."""
    choices, key = mapping_of(row, "choices"), text_of(row, "answerKey")
    labels, texts = texts_of(choices, "label"), texts_of(choices, "text")
    if key not in labels:
        raise DataError(f"answerKey is {key}, which is not one of {', '.join(labels)}")
    choice: Choice = {
        "question": text_of(row, "question"),
        "options": texts,
        "correct": labels.index(key),
        "rationale": None,
    }
    return choice_example(name, choice)


def source(*subsets: str) -> HubSource:
    """The published rows of those subsets, concatenated."""
    columns = ("question", "choices", "answerKey")
    return HubSource("allenai/ai2_arc", subsets, "train", "test", columns, example=example, validation="validation")


SOURCE = source("ARC-Easy", "ARC-Challenge")
EASY, CHALLENGE = source("ARC-Easy"), source("ARC-Challenge")


class ArcTask(MultipleChoiceTask):
    """Both difficulties, or one of them."""

    def __init__(self, name: str = "arc", title: str = "ARC (Easy and Challenge)") -> None:
        super().__init__(name, MAX_CHOICES)
        self.origins = {"hub": Origin(title)}


def arc_easy() -> ArcTask:
    return ArcTask("arc_easy", "ARC-Easy")


def arc_challenge() -> ArcTask:
    return ArcTask("arc_challenge", "ARC-Challenge")
