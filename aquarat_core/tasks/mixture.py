"""Deterministic mixtures of conversations for mid-training and SFT.

The place of a row follows from (seed, source, row, copy) alone, by sorting on a hash of them: no generator is carried
along, and adding a source does not reorder the others among themselves.
"""

import hashlib
from collections.abc import Mapping, Sequence

from aquarat_core.config import MixtureEntry
from aquarat_core.conversation import Conversation, Message
from aquarat_core.errors import DataError
from aquarat_core.tasks.task import A, Example, Task


def mix(
    entries: Sequence[MixtureEntry],
    task: Task[A],
    examples: Sequence[Example[A]],
    conversations: Mapping[str, Sequence[Conversation]],
    seed: int,
) -> list[Conversation]:
    """The rows of all `entries` in one shuffled order; ids become `source/row/copy`.

    The entry with the task's name takes `examples`, every other its name in `conversations`. Raises `DataError` for a
    name that is in neither.
    """
    rows: list[Conversation] = []
    for entry in entries:
        if entry.name == task.name:
            rows += _task_rows(entry, task, examples, seed)
        elif entry.name in conversations:
            taken = conversations[entry.name][: entry.limit]
            rows += [_named(entry, c.id, i, c.messages) for c in taken for i in range(entry.repeat)]
        else:
            known = ", ".join([task.name, *sorted(conversations)])
            raise DataError(f"the mixture names {entry.name!r}; there are {known}")
    return sorted(rows, key=lambda c: hashlib.blake2b(f"{seed}\0{c.id}".encode(), digest_size=16).digest())


def _task_rows(entry: MixtureEntry, task: Task[A], examples: Sequence[Example[A]], seed: int) -> list[Conversation]:
    """Copy 0 of an example is as published; the others are shown in another way, where the target allows that."""
    rows: list[Conversation] = []
    for example in examples[: entry.limit]:
        copies = entry.permutations if task.is_permutable(example) else 1
        for copy in range(copies * entry.repeat):
            shown = example if copy % copies == 0 else task.shown(example, _derived(seed, copy))
            rows.append(_named(entry, example.id, copy, shown.conversation()))
    return rows


def _named(entry: MixtureEntry, row: str, copy: int, messages: list[Message]) -> Conversation:
    return Conversation(f"{entry.name}/{row}/{copy}", messages)


def _derived(seed: int, what: int) -> int:
    """64 bits that follow from the seed and a name."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{what}".encode(), digest_size=8).digest(), "big")
