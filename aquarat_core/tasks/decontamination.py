"""Leaves out training rows that contain a question which models are later judged by.

A row is contaminated if one of its user's messages, or one line of a document, is a held-out question or a near
duplicate of one, or if any of its text has a run of 13 of its words (`duplicates.HeldOut`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aquarat_core.conversation import without_calls
from aquarat_core.tasks.duplicates import HeldOut
from aquarat_core.tasks.splits import HELD_OUT, question_of
from aquarat_core.tasks.task import Example

DECONTAMINATION_FILE = "decontamination.json"
"""Record of a checkpoint that lists what was left out."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is searched of a training row."""

    id: str
    asked: Sequence[str]
    """The user's messages, the lines of a document, or what a task knows to be the question."""
    text: str
    """All of it, questions and answers, without the calls of tools, which would interrupt a run of words."""


@dataclass(frozen=True, slots=True)
class Contaminated:
    """A training row that was left out."""

    source: str
    row: str
    held_out: str
    """The question that it contains, as task/split/id."""
    rule: str


def searched(example: Example[Any]) -> Row:
    """An example of a task as a row."""
    said = without_calls(example.target or "", example.target_parts)
    return Row(example.id, [question_of(example)], f"{example.prompt}\n{said}")


class Searchable(Protocol):
    """A source whose rows can be searched."""

    def searched(self) -> Iterator[Row]: ...


def held_out_questions(tasks: Mapping[str, Mapping[str, Sequence[Example[Any]]]]) -> HeldOut:
    """The held-out questions of `tasks`, given as examples by task and split."""
    return HeldOut(held_out_texts(tasks))


def held_out_texts(tasks: Mapping[str, Mapping[str, Sequence[Example[Any]]]]) -> dict[str, str]:
    """The texts of the same questions, by task/split/id."""
    return {
        f"{task}/{split}/{e.id}": _bare(e)
        for task, splits in tasks.items()
        for split in HELD_OUT
        for e in splits.get(split, ())
    }


def contamination(held_out: HeldOut, row: Row) -> tuple[str, str] | None:
    """The held-out question that a row contains, and the rule that says so; None for a clean row.

    Texts of more than twice as many words as any held-out question are searched for runs of words alone.
    """
    for text in dict.fromkeys(part for message in row.asked for part in _parts(message)):
        if len(text.split()) <= 2 * held_out.longest and (found := held_out.find(text)):
            return found
    return held_out.copied(row.text)


def _parts(message: str) -> tuple[str, ...]:
    """Where a question may stand in a message: before a last line with an instruction, on the first line, in all."""
    before, _, _ = message.rpartition("\n")
    first, _, _ = message.partition("\n")
    return tuple(part for part in (before, first, message) if part)


def _bare(example: Example[Any]) -> str:
    """The question without the instruction that ends its prompt, whose words are in every other prompt too."""
    question = question_of(example)
    return question if question != example.prompt else question.rpartition("\n")[0] or question


def contaminated(
    held_out: HeldOut, sources: Mapping[str, Searchable], limits: Mapping[str, int | None] | None = None
) -> tuple[dict[str, frozenset[int]], list[Contaminated]]:
    """By source, the numbers of the rows that contain a held-out question, and a list of them.

    A source that has a limit is searched until so many clean rows are found.
    """
    numbers: dict[str, set[int]] = {name: set() for name in sources}
    listed: list[Contaminated] = []
    for name, source in sources.items():
        limit = (limits or {}).get(name)
        for number, row in enumerate(source.searched()):
            if limit is not None and number - len(numbers[name]) >= limit:
                break
            if found := contamination(held_out, row):
                numbers[name].add(number)
                listed.append(Contaminated(name, row.id, *found))
    return {name: frozenset(found) for name, found in numbers.items()}, listed


def counts(found: Iterable[Contaminated], sources: Iterable[str]) -> dict[str, int]:
    """Metrics: rows left out in all, of each source, and by each rule that applied."""
    found = list(found)
    of_source = Counter(row.source for row in found)
    of_rule = Counter(row.rule for row in found)
    return {
        "contaminated": len(found),
        **{f"contaminated_{name}": of_source[name] for name in sources},
        **{f"contaminated_by_{rule}": n for rule, n in sorted(of_rule.items())},
    }
