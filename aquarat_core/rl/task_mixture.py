"""Several tasks as one: RL samples, grades and trains on their questions alike, but measures each task separately.

An example of a mixture holds the example of its own task as its answer, and passes all questions about it to that task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aquarat_core.tasks.task import Attempt, Example, FilePath, Grade, Task


@dataclass(frozen=True, slots=True)
class Member:
    """The answer of a mixture's example: its task, and its example there."""

    task: str
    example: Example[Any]


class TaskMixture(Task[Member]):
    """The tasks of a mixture by name, in the order of their questions."""

    answer_form = "the form of its task"

    def __init__(self, tasks: Mapping[str, Task[Any]]) -> None:
        self.tasks = dict(tasks)
        self.name = " + ".join(tasks)
        self.grading_module = ", ".join(task.grading_module for task in tasks.values())
        self.notes = tuple(dict.fromkeys(note for task in tasks.values() for note in task.notes))

    def member(self, task: str, example: Example[Any]) -> Example[Member]:
        """Converts an example of one of the tasks to one of the mixture, whose id names its task."""
        return Example(
            id=f"{task}/{example.id}",
            messages=example.messages,
            target=example.target,
            answer=Member(task, example),
            reference=example.reference,
            choices=example.choices,
            target_parts=example.target_parts,
        )

    def examples(self, path: FilePath, split: str) -> list[Example[Member]]:
        raise NotImplementedError("a mixture has no files: its examples are members made from those of its tasks")

    def answer_text(self, answer: str) -> str:
        raise NotImplementedError("an answer alone does not say which task of the mixture it belongs to: ask that task")

    def check_ready(self) -> None:
        for task in self.tasks.values():
            task.check_ready()

    def grade(self, example: Example[Member], completion: str, ended: bool) -> Grade:
        grade = self._task(example).grade(example.answer.example, completion, ended)
        return replace(grade, notes={note: grade.notes.get(note, 0.0) for note in self.notes})

    def shown(self, example: Example[Member], seed: int) -> Example[Member]:
        return self.member(example.answer.task, self._task(example).shown(example.answer.example, seed))

    def is_permutable(self, example: Example[Member]) -> bool:
        return self._task(example).is_permutable(example.answer.example)

    def chance(self, example: Example[Member]) -> float:
        return self._task(example).chance(example.answer.example)

    def worthless(self, example: Example[Member]) -> Mapping[str, Attempt]:
        return self._task(example).worthless(example.answer.example)

    def _task(self, example: Example[Member]) -> Task[Any]:
        return self.tasks[example.answer.task]


@dataclass(frozen=True, slots=True)
class Part:
    """One task of a run. For a single task, `name` and the suffix of its metrics are empty."""

    name: str
    task: Task[Any]

    @property
    def suffix(self) -> str:
        """The suffix of the task's own metrics, as in `rl/acc/gsm8k`."""
        return f"/{self.name}" if self.name else ""

    def own(self, example: Example[Any]) -> Example[Any]:
        """Converts an example of the run to one of the task."""
        return example.answer.example if self.name else example

    def select(self, examples: Iterable[Example[Any]]) -> list[Example[Any]]:
        """The task's examples among those of the run, as examples of the task."""
        return [self.own(e) for e in examples if not self.name or e.answer.task == self.name]


def parts_of(task: Task[Any]) -> list[Part]:
    """The tasks of a mixture, or the single task itself."""
    if isinstance(task, TaskMixture):
        return [Part(name, inner) for name, inner in task.tasks.items()]
    return [Part("", task)]


def part_of(parts: Sequence[Part], example: Example[Any]) -> Part:
    """The part that an example of the run belongs to."""
    return next(part for part in parts if not part.name or part.name == example.answer.task)


def shares(weights: Sequence[float], count: int) -> list[int]:
    """How many of `count` questions each task gives: proportional to the weights, rounded by largest remainders, and
    at least one.

    `count` must be at least the number of tasks.
    """
    exact = [count * weight / sum(weights) for weight in weights]
    given = [max(1, int(x)) for x in exact]
    while sum(given) < count:
        largest = max(range(len(exact)), key=lambda i: exact[i] - given[i])
        given[largest] += 1
    while sum(given) > count:
        most = max((i for i in range(len(exact)) if given[i] > 1), key=lambda i: given[i] - exact[i])
        given[most] -= 1
    return given
