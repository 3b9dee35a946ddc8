"""AQuA-RAT behind the protocol of tasks: the answer of an example is its question, which can be shown in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from aquarat_core.conversation import user_message
from aquarat_core.tasks.aqua.question import (
    LETTERS,
    Question,
    parse_answer,
    permute,
    prompt,
    target,
    target_parts,
)
from aquarat_core.tasks.choice import MARKER, count_markers
from aquarat_core.tasks.option_order import letter_free
from aquarat_core.tasks.task import Attempt, Example, FilePath, Grade, Origin, Task


def to_example(q: Question) -> Example[Question]:
    """The question as it stands, options in their order."""
    return Example(
        id=q.id,
        messages=(user_message(prompt(q)),),
        target=target(q),
        answer=q,
        reference=q.correct,
        choices=q.options,
        target_parts=target_parts(q),
    )


class AquaTask(Task[Question]):
    """Five options, one right letter, permuted options, and the strict parser."""

    name = "aqua"
    answer_form = f"{MARKER!r} and a letter as the last line"
    grading_module = "aquarat_core.tasks.choice"
    categories = tuple(LETTERS)
    notes = ("ambiguous",)
    origins: Mapping[str, Origin] = {
        "hub": Origin("AQuA-RAT"),
        "synthetic": Origin(
            "generated word problems",
            "These questions are generated word problems in AQuA's form (aqua_dataset.source: synthetic). A score on "
            "them says nothing about AQuA-RAT.",
        ),
    }

    def examples(self, path: FilePath, split: str) -> list[Example[Question]]:
        from aquarat_core.tasks.aqua.files import read_questions

        return [to_example(q) for q in read_questions(path(f"{split}.parquet"))]

    def iterate(self, path: FilePath, split: str) -> Iterator[Example[Question]]:
        from aquarat_core.tasks.aqua.files import iterate_questions

        return map(to_example, iterate_questions(path(f"{split}.parquet")))

    def references(self, path: FilePath, split: str) -> Sequence[str]:
        import pyarrow.parquet as pq

        # The stubs leave open of what their IO is.
        table = pq.read_table(  # pyright: ignore[reportUnknownMemberType]
            path(f"{split}.parquet"), columns=["correct"]
        )
        letters: list[str | None] = table["correct"].to_pylist()
        return cast("list[str]", letters)

    def shown(self, example: Example[Question], seed: int) -> Example[Question]:
        """With its options in an order drawn from (seed, id); the correct letter moves along."""
        shown = permute(example.answer, seed)
        return example if shown is example.answer else to_example(shown)

    def is_permutable(self, example: Example[Question]) -> bool:
        """Whether the rationale names no option by its letter or place."""
        return letter_free(example.answer.rationale, len(LETTERS))

    def grade(self, example: Example[Question], completion: str, ended: bool) -> Grade:
        """1 for the right letter said once, at the end, with the stop token; otherwise 0."""
        letter = parse_answer(completion) if ended else None
        correct = letter == example.reference
        return Grade(float(correct), correct, letter, {"ambiguous": float(count_markers(completion) > 1)})

    def answer_text(self, answer: str) -> str:
        return f"{MARKER}{answer}"

    def worthless(self, example: Example[Question]) -> Mapping[str, Attempt]:
        q = example.answer
        right, wrong = f"{MARKER}{q.correct}", f"{MARKER}{LETTERS[(q.gold + 1) % len(LETTERS)]}"
        return {
            "the prompts alone": Attempt(prompt(q)),
            "the rationales without an answer": Attempt(q.rationale.replace(MARKER, "")),
            "the bare right letters": Attempt(q.correct),
            "wrong answers": Attempt(wrong),
            "the right answers cut off before the stop token": Attempt(right, ended=False),
            "the right answers in lower case": Attempt(f"{MARKER}{q.correct.lower()}"),
            "the right answers in small print": Attempt(right.lower()),
            "the right answers followed by wrong ones": Attempt(f"{right}\n{wrong}"),
            "wrong answers followed by the right ones": Attempt(f"{wrong}\n{right}"),
            "lists of all five answers": Attempt("\n".join(f"{MARKER}{x}" for x in LETTERS)),
            "the right answers with text after them": Attempt(f"{right} because"),
            "the right options' texts": Attempt(f"#### {q.options[q.gold]}"),
        }
