"""The shared part of all tasks with lettered options: grading, protocols, and completions that must earn nothing."""

from __future__ import annotations

from string import ascii_uppercase

from aquarat_core.config.protocols import EvalProtocol
from aquarat_core.tasks.choice import MARKER, count_markers, parse_letter
from aquarat_core.tasks.task import A, Attempt, Example, Grade, Task


class LetteredTask(Task[A]):
    """Answers are letters: `reference` of an example is its right letter, `choices` are the options."""

    answer_form = f"{MARKER!r} and a letter as the last line"
    grading_module = "aquarat_core.tasks.choice"
    notes = ("ambiguous",)
    protocols: tuple[EvalProtocol, ...] = ("greedy", "sampled", "letters", "continuations", "cued", "rotated")

    def grade(self, example: Example[A], completion: str, ended: bool) -> Grade:
        """1 if the right letter is given once, at the end, followed by the stop token; otherwise 0."""
        letter = parse_letter(completion, _letters(example)) if ended else None
        correct = letter == example.reference
        return Grade(float(correct), correct, letter, {"ambiguous": float(count_markers(completion) > 1)})

    def answer_text(self, answer: str) -> str:
        return f"{MARKER}{answer}"


def worthless_letters(example: Example[object], what: str, solution: str, all_of_them: str) -> dict[str, Attempt]:
    """`Task.worthless` for a lettered task. `solution` is the example's solution without an answer, `what` describes
    such solutions, and `all_of_them` describes the list of all answers."""
    letter, letters = example.reference, _letters(example)
    place = letters.index(letter)
    right, wrong = f"{MARKER}{letter}", f"{MARKER}{letters[(place + 1) % len(letters)]}"
    return {
        "the prompts alone": Attempt(example.prompt),
        what: Attempt(solution.replace(MARKER, "")),
        "the bare right letters": Attempt(letter),
        "wrong answers": Attempt(wrong),
        "the right answers cut off before the stop token": Attempt(right, ended=False),
        "the right answers in lower case": Attempt(f"{MARKER}{letter.lower()}"),
        "the right answers in small print": Attempt(right.lower()),
        "the right answers followed by wrong ones": Attempt(f"{right}\n{wrong}"),
        "wrong answers followed by the right ones": Attempt(f"{wrong}\n{right}"),
        f"lists of {all_of_them}": Attempt("\n".join(f"{MARKER}{x}" for x in letters)),
        "the right answers with text after them": Attempt(f"{right} because"),
        "the right options' texts": Attempt(f"#### {example.choices[place]}"),
    }


def _letters(example: Example[object]) -> str:
    return ascii_uppercase[: len(example.choices)]
