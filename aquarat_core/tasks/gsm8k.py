"""GSM8K: grade-school word problems with worked solutions (Cobbe et al. 2021, arXiv 2110.14168)."""

import re

from aquarat_core.conversation import Message
from aquarat_core.tasks.source import HubSource, Row, text_of

_CALCULATION = re.compile(r"<<[^<>]*>>")


def conversation(row: Row) -> list[Message]:
    """The solution keeps its last line `#### 18` and loses the calculator's annotations `<<48/2=24>>`."""
    return [
        {"role": "user", "content": text_of(row, "question").strip()},
        {"role": "assistant", "content": _CALCULATION.sub("", text_of(row, "answer")).strip()},
    ]


SOURCE = HubSource("openai/gsm8k", ("main",), "train", "test", ("question", "answer"), conversation)
