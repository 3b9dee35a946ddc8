"""Multiple-choice questions without a rationale, asked and answered by letter."""

import string
from collections.abc import Sequence

from aquarat_core.conversation import Message
from aquarat_core.errors import DataError
from aquarat_core.tasks.choice import MARKER, option_lines

INSTRUCTION = 'Reply with "Answer: " and one letter.'


def choice_conversation(question: str, choices: Sequence[str], correct: int) -> list[Message]:
    """Question, lettered choices and instruction; the reply is the answer line. `correct` counts from 0.

    Raises `DataError` if that is none of the choices, or if there are more choices than letters.
    """
    if not 0 <= correct < len(choices) <= len(string.ascii_uppercase):
        raise DataError(f"the answer is choice {correct}, counted from 0, of {len(choices)}")
    user = "\n".join([question.strip(), option_lines(choices), INSTRUCTION])
    return [
        {"role": "user", "content": user},
        {"role": "assistant", "content": f"{MARKER}{string.ascii_uppercase[correct]}"},
    ]
