"""The protocol of a task: where its examples are, how they are shown, and how answers are graded.

Training, evaluation, mixtures and samples know a task only through this protocol. It draws these lines:

- An `Example` is rendered: messages to show and a target to train on. Anything else that the task needs to grade an
  answer, or to show the example in another way, is the example's `answer`, whose type only the task knows.
- Reward, correctness and the parsed answer come together in one `Grade`, so evaluation and the reward of RL cannot
  read an answer differently.
- Examples are read from the files of an artifact, because artifacts are the input of stages. A task is given a function
  that finds a file by name; it knows neither stores nor assets.
- Completions that must earn nothing (`worthless`), the success rate of guessing (`chance`) and answers that are counted
  by name (`categories`) belong to the task, so that a task's author states how it could be cheated.

A task is a class that inherits from `Task`; methods with a body here are defaults.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from aquarat_core.config.protocols import EvalProtocol
from aquarat_core.conversation import Message, Part, assistant_message, transcript
from aquarat_core.errors import DataError

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

FilePath = Callable[[str], Path]
"""Returns the local path of a file in the artifact with a task's examples, as `Artifact.path` does."""


@dataclass(frozen=True, slots=True)
class Example(Generic[A_co]):
    """One question or other prompt of a task, ready to be shown to a model."""

    id: str
    """Unique in its split; it seeds the random numbers of a completion."""
    messages: tuple[Message, ...]
    """The messages shown to the model; the last one is the user's."""
    target: str | None
    """The reply to train on, if known."""
    answer: A_co
    """Everything the task needs to grade a completion and to show the example again; only the task uses it."""
    reference: str
    """The right answer as shown to readers, in the form of `Grade.answer`."""
    choices: tuple[str, ...] = ()
    """The texts to choose from, in the order shown; empty for an open answer."""
    target_parts: tuple[Part, ...] = ()
    """The parts of the target if it calls tools; `target` is then `parts_text(target_parts)`."""

    @property
    def prompt(self) -> str:
        """The messages as one text for human readers."""
        return transcript(self.messages)

    def conversation(self) -> list[Message]:
        """The messages followed by the target. Raises `DataError` for an example without a target."""
        if self.target is None:
            raise DataError(f"example {self.id} has no target: its task can only be scored, not trained on")
        return [*self.messages, assistant_message(self.target, self.target_parts)]


@dataclass(frozen=True, slots=True)
class Grade:
    """How one completion was graded."""

    reward: float
    """1 for a right answer in the requested form, less for anything else."""
    correct: bool
    answer: str | None
    """The parsed answer; None if the completion has no answer in the requested form."""
    notes: Mapping[str, float] = field(default_factory=dict[str, float])
    """Other observations, by the names in `Task.notes`; their means become metrics."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A completion that was written by hand instead of sampled."""

    text: str
    ended: bool = True
    """False if it was cut off before its stop token."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Describes the examples of a data set for reports."""

    text: str
    warning: str | None = None
    """What readers of scores on these examples must know first."""


Reward = Callable[[Example[A], str, bool], Grade]
"""Grades the text of a completion without its stop token; the flag says whether it ended with one."""


class Task(Protocol[A]):
    """A task with examples whose `answer` is an `A`."""

    name: str
    answer_form: str
    """The form of an answer, for messages: "... does not end in ANSWER_FORM"."""
    grading_module: str
    """The module whose source decides what is right; scores under different versions of it are not compared."""
    categories: tuple[str, ...] = ()
    """All possible answers if there are few enough to be counted by name; else empty."""
    notes: tuple[str, ...] = ()
    """The names of the notes in a `Grade`."""
    protocols: tuple[EvalProtocol, ...] = ("greedy", "sampled")
    """How it can be evaluated. All others need options answered by letter, of which `Example.reference` is one."""
    origins: Mapping[str, Origin] = {}
    """Description of the examples, by the field `source` in the config of the data set."""

    def check_ready(self) -> None:
        """Raises `UserError` if answers cannot be graded on this machine."""

    def grading_source(self) -> str:
        """The source of `grading_module`."""
        return inspect.getsource(importlib.import_module(self.grading_module))

    def examples(self, path: FilePath, split: str) -> list[Example[A]]:
        """The examples of `split`, in the order of the file. Raises `DataError` for a file without examples."""
        ...

    def iterate(self, path: FilePath, split: str) -> Iterator[Example[A]]:
        """Yields the same examples one by one; a task may read them in parts."""
        yield from self.examples(path, split)

    def grade(self, example: Example[A], completion: str, ended: bool) -> Grade:
        """Grade a completion, given without its stop token. If it was cut off (not `ended`), it is not correct."""
        ...

    def grade_many(self, attempts: Sequence[tuple[Example[A], str, bool]]) -> list[Grade]:
        """The grades of several (example, completion, ended); a task whose grading is slow may do it in parallel."""
        return [self.grade(*attempt) for attempt in attempts]

    def answer_text(self, answer: str) -> str:
        """The shortest completion that gives `answer`, right or wrong, in the requested form."""
        ...

    def worthless(self, example: Example[A]) -> Mapping[str, Attempt]:
        """Completions that must earn nothing, each named in the plural for messages ("the prompts alone").

        The names are the same for every example.
        """
        ...

    def shown(self, example: Example[A], seed: int) -> Example[A]:
        """The example as shown under `seed`, for example with its choices in another order; by default unchanged.

        It depends only on (seed, example.id).
        """
        del seed
        return example

    def rotated(self, example: Example[A], shift: int) -> Example[A]:
        """The example with option i in the place (i + shift) modulo their number, and its right letter moved along;
        itself where its options keep their order, and by default. What has the protocol `rotated` must define it."""
        del shift
        return example

    def is_permutable(self, example: Example[A]) -> bool:
        """Whether the target holds however the example is shown, so that copies of it may differ; False by default."""
        del example
        return False

    def without_solution(self, example: Example[A]) -> Example[A]:
        """The example with the answer alone as its target, in the form that is asked for; by default `answer_text`."""
        return replace(example, target=self.answer_text(example.reference), target_parts=())

    def chance(self, example: Example[A]) -> float:
        """The probability that a guess is right: one divided by the number of choices, or 0 for an open answer."""
        return 1 / len(example.choices) if example.choices else 0.0

    def references(self, path: FilePath, split: str) -> Sequence[str]:
        """The right answers of `split`; a task may read them without the rest of its examples."""
        return [e.reference for e in self.examples(path, split)]


def most_common(references: Iterable[str]) -> str:
    """The most frequent answer; ties go to the first in alphabetical order. Raises `DataError` if there are none."""
    counts = Counter(references)
    if not counts:
        raise DataError("there are no examples, and so no most common answer: take a split that has some")
    return min(counts, key=lambda answer: (-counts[answer], answer))
