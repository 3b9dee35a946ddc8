"""Questions whose answer is a short text, compared without regard to case, spacing and a final period."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from aquarat_core.conversation import user_message
from aquarat_core.errors import DataError
from aquarat_core.tasks.choice import MARKER, count_markers
from aquarat_core.tasks.example_files import StoredTask
from aquarat_core.tasks.source import without_answers
from aquarat_core.tasks.task import Attempt, Example, Grade

MAX_CHARS = 200
"""A longer text is not a short answer: it could list all possible answers."""
INSTRUCTION = 'Reply with the answer alone after "Answer: ", as the last line.'


def normalized(text: str) -> str:
    """Case-folded, with runs of white space as one space, and without a final period."""
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").rstrip().casefold()


def text_example(name: str, question: str, answers: Sequence[str], rationale: str) -> Example[list[str]]:
    """A question and its accepted answers; the first one is shown. Raises `DataError` for an invalid answer."""
    if not answers:
        raise DataError("there is no answer")
    for answer in answers:
        if not normalized(answer) or "\n" in answer.strip() or len(answer) > MAX_CHARS or count_markers(answer):
            raise DataError(
                f"the answer {answer[:80]!r} is not one line of 1 to {MAX_CHARS} characters without {MARKER!r}"
            )
    shown, kept = answers[0].strip(), without_answers(rationale, count_markers)
    target = f"{kept}\n{MARKER}{shown}" if kept else f"{MARKER}{shown}"
    return Example(name, (user_message(f"{question.strip()}\n{INSTRUCTION}"),), target, list(answers), shown)


def parse_text(text: str) -> str | None:
    """The answer in `text`, or None: there must be one marker, at the start of the last non-empty line."""
    last_line = text.rstrip(" \t\r\n").rpartition("\n")[2]
    answer = last_line.removeprefix(MARKER)
    given = answer != last_line and count_markers(text) == 1 and 0 < len(answer) <= MAX_CHARS
    return answer if given and normalized(answer) else None


class ShortTextTask(StoredTask[list[str]]):
    """The answer must be one of the accepted texts; the `answer` of an example is the list of them."""

    answer_form = f"{MARKER!r} and the answer as the last line"
    grading_module = "aquarat_core.tasks.short_text"
    notes = ("ambiguous",)

    def __init__(self, name: str) -> None:
        self.name = name

    def grade(self, example: Example[list[str]], completion: str, ended: bool) -> Grade:
        """1 if an accepted text is given once, at the end, followed by the stop token; otherwise 0."""
        answer = parse_text(completion) if ended else None
        correct = answer is not None and normalized(answer) in map(normalized, example.answer)
        return Grade(float(correct), correct, answer, {"ambiguous": float(count_markers(completion) > 1)})

    def answer_text(self, answer: str) -> str:
        return f"{MARKER}{answer}"

    def worthless(self, example: Example[list[str]]) -> Mapping[str, Attempt]:
        right = f"{MARKER}{example.reference}"
        wrong = f"{MARKER}not {example.reference}"
        return {
            "the prompts alone": Attempt(example.prompt),
            "the solutions without an answer": Attempt((example.target or "").rpartition("\n")[0]),
            "the bare right answers": Attempt(example.reference),
            "wrong answers": Attempt(wrong),
            "the right answers cut off before the stop token": Attempt(right, ended=False),
            "the right answers without a space": Attempt(right.replace(": ", ":", 1)),
            "the right answers followed by wrong ones": Attempt(f"{right}\n{wrong}"),
            "wrong answers followed by the right ones": Attempt(f"{wrong}\n{right}"),
            "the right answers among others": Attempt(f"{right} or something else entirely"),
            "the right answers with text after them": Attempt(f"{right}\nThat is all."),
        }
