"""AQuA-RAT as a task. The `answer` of an example is its question, so that it can be shown in any option order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

from aquarat_core.conversation import user_message
from aquarat_core.tasks.aqua.question import (
    LETTERS,
    Question,
    answer_lines,
    permute,
    prompt,
    rotate,
    target,
    target_parts,
)
from aquarat_core.tasks.lettered import LetteredTask, worthless_letters
from aquarat_core.tasks.option_order import letter_free
from aquarat_core.tasks.task import Attempt, Example, FilePath, Origin


def to_example(q: Question) -> Example[Question]:
    """The question with its options in their own order."""
    return Example(
        id=q.id,
        messages=(user_message(prompt(q)),),
        target=target(q),
        answer=q,
        reference=q.correct,
        choices=q.options,
        target_parts=target_parts(q),
    )


class AquaTask(LetteredTask[Question]):
    """Five options, one right letter, permuted options, and the strict parser."""

    name = "aqua"
    categories = tuple(LETTERS)
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

        # The stubs do not declare the type of its IO argument.
        table = pq.read_table(  # pyright: ignore[reportUnknownMemberType]
            path(f"{split}.parquet"), columns=["correct"]
        )
        letters: list[str | None] = table["correct"].to_pylist()
        return cast("list[str]", letters)

    def shown(self, example: Example[Question], seed: int) -> Example[Question]:
        """Shows the options in an order drawn from (seed, id); the correct letter moves along."""
        shown = permute(example.answer, seed)
        return example if shown is example.answer else to_example(shown)

    def rotated(self, example: Example[Question], shift: int) -> Example[Question]:
        rotated = rotate(example.answer, shift)
        return example if rotated is example.answer else to_example(rotated)

    def is_permutable(self, example: Example[Question]) -> bool:
        """Whether the rationale names no option by its letter or position."""
        return letter_free(example.answer.rationale, len(LETTERS))

    def without_solution(self, example: Example[Question]) -> Example[Question]:
        bare = replace(example.answer, rationale="", rationale_parts=())
        return replace(to_example(bare), target=answer_lines(bare))

    def worthless(self, example: Example[Question]) -> Mapping[str, Attempt]:
        rationale = example.answer.rationale
        return worthless_letters(example, "the rationales without an answer", rationale, "all five answers")
