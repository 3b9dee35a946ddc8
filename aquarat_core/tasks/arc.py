"""ARC: grade-school science questions, three to five choices (Clark et al. 2018, arXiv 1803.05457)."""

from aquarat_core.conversation import Message
from aquarat_core.tasks.multiple_choice import choice_conversation
from aquarat_core.tasks.source import HubSource, Row, mapping_of, text_of, texts_of


def conversation(row: Row) -> list[Message] | None:
    """Some rows name their choices 1-4: all are lettered by place. None where the key names no choice."""
    choices, key = mapping_of(row, "choices"), text_of(row, "answerKey")
    labels, texts = texts_of(choices, "label"), texts_of(choices, "text")
    if key not in labels:
        return None
    return choice_conversation(text_of(row, "question"), texts, labels.index(key))


SOURCE = HubSource(
    "allenai/ai2_arc",
    ("ARC-Easy", "ARC-Challenge"),
    "train",
    "test",
    ("question", "choices", "answerKey"),
    conversation,
)
