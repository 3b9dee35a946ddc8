"""Questions with 2 to 26 lettered options, answered by letter: the task behind ARC, MMLU and a user's own questions.

The options' letters come after their texts, the answer line is `Answer: C`, and a solution, if there is one, comes
before the right option and its letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import TypedDict

from aquarat_core.conversation import user_message
from aquarat_core.errors import DataError
from aquarat_core.tasks.choice import MARKER, option_line, option_lines
from aquarat_core.tasks.example_files import StoredTask
from aquarat_core.tasks.lettered import LetteredTask, worthless_letters
from aquarat_core.tasks.option_order import drawn_order, keeps_order, letter_free
from aquarat_core.tasks.task import Attempt, Example

MAX_OPTIONS = len(ascii_uppercase)
INSTRUCTION = 'Reply with "Answer: " and one letter.'
REASONING_INSTRUCTION = 'Reason step by step. Repeat the right option, then end with "Answer: " and its letter.'


class Choice(TypedDict):
    """The answer of an example: the question before its options are lettered."""

    question: str
    options: list[str]
    correct: int
    """Index of the right option."""
    rationale: str | None
    """The worked solution; empty where this row has none, None where the data set has none."""


def choice_example(name: str, choice: Choice) -> Example[Choice]:
    """The question with its options in their order.

    Raises `DataError` for other than 2 to 26 options, or an answer that is none of them.
    """
    options, correct = choice["options"], choice["correct"]
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise DataError(f"{len(options)} options: a question has 2 to {MAX_OPTIONS}")
    if not 0 <= correct < len(options):
        raise DataError(f"the answer is option {correct}, counted from 0, of {len(options)}")
    letter, rationale = ascii_uppercase[correct], choice["rationale"]
    instruction = INSTRUCTION if rationale is None else REASONING_INSTRUCTION
    target = f"{MARKER}{letter}"
    if rationale:
        target = f"{rationale}\n{option_line(options[correct], letter)}\n{target}"
    prompt = "\n".join([choice["question"].strip(), option_lines(options), instruction])
    return Example(name, (user_message(prompt),), target, choice, letter, tuple(options))


class MultipleChoiceTask(LetteredTask[Choice], StoredTask[Choice]):
    """Lettered options in any order, and the strict parser of an answer's letter."""

    def __init__(self, name: str, letters: int) -> None:
        self.name = name
        self.categories = tuple(ascii_uppercase[:letters])

    def shown(self, example: Example[Choice], seed: int) -> Example[Choice]:
        """With its options in an order drawn from (seed, id); options that refer to others keep their order."""
        choice = example.answer
        options = choice["options"]
        if keeps_order(options):
            return example
        order = drawn_order(seed, example.id, len(options))
        moved: Choice = {
            **choice,
            "options": [options[i] for i in order],
            "correct": order.index(choice["correct"]),
        }
        return choice_example(example.id, moved)

    def is_permutable(self, example: Example[Choice]) -> bool:
        """Whether the solution names no option by its letter or place."""
        return letter_free(example.answer["rationale"] or "", len(example.choices))

    def worthless(self, example: Example[Choice]) -> Mapping[str, Attempt]:
        return worthless_letters(example, "the solutions without an answer", example.target or "", "all answers")
