"""Questions with 2 to 26 lettered options: the task for ARC, MMLU and a user's own questions.

The letters follow the options' texts. The answer line is `Answer: C`; it comes after the right option, which comes
after the solution, if there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import TypedDict

from aquarat_core.conversation import user_message
from aquarat_core.errors import DataError
from aquarat_core.tasks.choice import MARKER, option_line, option_lines
from aquarat_core.tasks.example_files import StoredTask
from aquarat_core.tasks.lettered import LetteredTask, worthless_letters
from aquarat_core.tasks.option_order import drawn_order, keeps_order, letter_free, rotated_order
from aquarat_core.tasks.task import Attempt, Example

MAX_OPTIONS = len(ascii_uppercase)
INSTRUCTION = 'Reply with "Answer: " and one letter.'
REASONING_INSTRUCTION = 'Reason step by step. Repeat the right option, then end with "Answer: " and its letter.'


class Choice(TypedDict):
    """The `answer` of an example: the question before its options are lettered."""

    question: str
    options: list[str]
    correct: int
    """Index of the right option."""
    rationale: str | None
    """The worked solution; empty if this row has none, None if the data set has none."""


def choice_example(name: str, choice: Choice) -> Example[Choice]:
    """The question with its options in their own order.

    Raises `DataError` unless there are 2 to 26 options and the answer is one of them.
    """
    options, correct = choice["options"], choice["correct"]
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise DataError(f"{len(options)} options: a question must have 2 to {MAX_OPTIONS}")
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
    """Lettered options in any order, with the strict parser of answer letters."""

    def __init__(self, name: str, letters: int) -> None:
        self.name = name
        self.categories = tuple(ascii_uppercase[:letters])

    def shown(self, example: Example[Choice], seed: int) -> Example[Choice]:
        """Shows the options in an order drawn from (seed, id); options that refer to others keep their order."""
        return self._reordered(example, drawn_order(seed, example.id, len(example.choices)))

    def rotated(self, example: Example[Choice], shift: int) -> Example[Choice]:
        return self._reordered(example, rotated_order(len(example.choices), shift))

    def _reordered(self, example: Example[Choice], order: Sequence[int]) -> Example[Choice]:
        """With the option of the old index `order[place]` at each place; itself where the order is kept."""
        choice = example.answer
        options = choice["options"]
        if keeps_order(options):
            return example
        moved: Choice = {
            **choice,
            "options": [options[i] for i in order],
            "correct": order.index(choice["correct"]),
        }
        return choice_example(example.id, moved)

    def is_permutable(self, example: Example[Choice]) -> bool:
        """Whether the solution names no option by its letter or position."""
        return letter_free(example.answer["rationale"] or "", len(example.choices))

    def worthless(self, example: Example[Choice]) -> Mapping[str, Attempt]:
        return worthless_letters(example, "the solutions without an answer", example.target or "", "all answers")
