"""What a task is: where its examples are, how they are shown, and what an answer to one is worth.

Training, evaluation, mixtures and samples know a task only by this protocol. Where the cut is, and why:

- An `Example` is rendered: messages to show and a target to train on. What the task needs beyond that, to grade an
  answer or to show the example in another way, is its `answer`, whose type is the task's own business.
- Reward, correctness and the answer as it was read come together, in one `Grade`. The evaluation and the reward of RL
  cannot read an answer differently.
- Examples are read from the files of an artifact, since that is what stages are given. A task is told how to find a
  file by its name; it knows neither stores nor assets.
- What must earn nothing (`worthless`), what guessing earns (`chance`) and which answers are counted by name
  (`categories`) belong to the task, so that the author of a task states how it could be cheated.

A task is a class that inherits from `Task`: what has a body here is a default.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from aquarat_core.conversation import Message, Part, assistant_message, transcript
from aquarat_core.errors import DataError

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

FilePath = Callable[[str], Path]
"""The local path of a file of the artifact that holds a task's examples; `Artifact.path` is one."""


@dataclass(frozen=True, slots=True)
class Example(Generic[A_co]):
    """One question or other prompt of a task, ready to be shown to a model."""

    id: str
    """Unique in its split; random numbers of a completion are drawn by it."""
    messages: tuple[Message, ...]
    """What the model is shown; the last message is the user's."""
    target: str | None
    """What the assistant should say, where that is known: it is trained on."""
    answer: A_co
    """What the task needs to grade a completion, and to show the example again; only the task looks into it."""
    reference: str
    """The right answer as a reader is shown it, in the form of `Grade.answer`."""
    choices: tuple[str, ...] = ()
    """The texts to choose from, in the order that is shown; empty where the answer is open."""
    target_parts: tuple[Part, ...] = ()
    """Where the target calls tools, its parts; `target` is then `parts_text(target_parts)`."""

    @property
    def prompt(self) -> str:
        """The messages as one text, for people to read."""
        return transcript(self.messages)

    def conversation(self) -> list[Message]:
        """The messages and the target after them. Raises `DataError` for an example without a target."""
        if self.target is None:
            raise DataError(f"example {self.id} has no target: its task can be scored, and not trained on")
        return [*self.messages, assistant_message(self.target, self.target_parts)]


@dataclass(frozen=True, slots=True)
class Grade:
    """How one completion was graded."""

    reward: float
    """1 for what is right in the form that was asked for, less for anything else."""
    correct: bool
    answer: str | None
    """As it was read; None if the completion has no answer in the form that was asked for."""
    notes: Mapping[str, float] = field(default_factory=dict[str, float])
    """What else was seen, by the names in `Task.notes`; their means become metrics."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A completion that was written, not sampled."""

    text: str
    ended: bool = True
    """False for one that was cut off before its stop token."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the examples of a data set are, in the words of a report."""

    text: str
    warning: str | None = None
    """What a reader of scores on them must know first."""


Reward = Callable[[Example[A], str, bool], Grade]
"""Grades the text of a completion without its stop token; the flag says whether it ended with one."""


class Task(Protocol[A]):
    """A task with examples whose `answer` is an `A`."""

    name: str
    answer_form: str
    """The form of an answer, for messages: "... does not end in ANSWER_FORM"."""
    grading_module: str
    """The module whose source decides what is right: scores under different versions of it are not compared."""
    categories: tuple[str, ...] = ()
    """Every answer there can be, where they are few enough to be counted by name; else empty."""
    notes: tuple[str, ...] = ()
    """The names of the notes in a `Grade`."""
    origins: Mapping[str, Origin] = {}
    """What the examples are, by the field `source` in the config of the data set."""

    def check_ready(self) -> None:
        """Raises `UserError` where answers cannot be graded on this machine."""

    def grading_source(self) -> str:
        """The source of `grading_module`."""
        return inspect.getsource(importlib.import_module(self.grading_module))

    def examples(self, path: FilePath, split: str) -> list[Example[A]]:
        """The examples of `split`, in the order of the file. Raises `DataError` for a file that does not hold any."""
        ...

    def iterate(self, path: FilePath, split: str) -> Iterator[Example[A]]:
        """The same one by one; a task may read them part by part."""
        yield from self.examples(path, split)

    def grade(self, example: Example[A], completion: str, ended: bool) -> Grade:
        """Grade a completion, given without its stop token; one that was cut off (not `ended`) is not correct."""
        ...

    def grade_many(self, attempts: Sequence[tuple[Example[A], str, bool]]) -> list[Grade]:
        """The grades of several (example, completion, ended); a task for which that takes long may do it at once."""
        return [self.grade(*attempt) for attempt in attempts]

    def answer_text(self, answer: str) -> str:
        """The shortest completion that gives `answer`, right or wrong, in the form that was asked for."""
        ...

    def worthless(self, example: Example[A]) -> Mapping[str, Attempt]:
        """Completions that must earn nothing, each named in the plural for messages ("the prompts alone").

        The names are the same for every example.
        """
        ...

    def shown(self, example: Example[A], seed: int) -> Example[A]:
        """The example as it is shown under `seed`, for example with its choices in another order; itself by default.

        It depends on (seed, example.id) alone.
        """
        del seed
        return example

    def is_permutable(self, example: Example[A]) -> bool:
        """Whether the target holds however the example is shown, so that copies of it may differ; not by default."""
        del example
        return False

    def chance(self, example: Example[A]) -> float:
        """How often a guess is right: one of the choices, or never where the answer is open."""
        return 1 / len(example.choices) if example.choices else 0.0

    def references(self, path: FilePath, split: str) -> Sequence[str]:
        """The right answers of `split`; a task may read them without the rest of its examples."""
        return [e.reference for e in self.examples(path, split)]


def most_common(references: Iterable[str]) -> str:
    """The answer that is right most often; of equals the first in alphabetical order. Raises `DataError` for none."""
    counts = Counter(references)
    if not counts:
        raise DataError("there are no examples, and so no most common answer: take a split that has some")
    return min(counts, key=lambda answer: (-counts[answer], answer))
