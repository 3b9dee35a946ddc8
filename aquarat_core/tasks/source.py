"""Descriptions of data sets on the Hub, and checks of the values in a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.conversation import Conversation, Message
from aquarat_core.errors import DataError
from aquarat_core.plain_text import type_of
from aquarat_core.tasks.task import Example

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HubSource:
    """The location of a data set's rows, and how one becomes a conversation or, for a task, an example."""

    repo: str
    subsets: tuple[str, ...]
    """Concatenated in this order."""
    train: str | None
    """Name of the training split; None if the data set has none."""
    test: str
    columns: tuple[str, ...]
    conversation: Callable[[Row], list[Message] | None] | None = None
    """Converts a row to messages, or None if it cannot be used. Raises `DataError` for an invalid value."""
    example: Callable[[Row, str], Example[Any]] | None = None
    """For a task: converts a row and its id to an example whose answer is a JSON value. Raises `DataError`."""
    validation: str | None = None
    """Name of the published validation split; if None, rows of the training split are held out."""

    def read(self, row: Row, name: str) -> Conversation | Example[Any] | None:
        """A row with the id `name`; None if it cannot be used. Raises `DataError` for an invalid value."""
        if self.example is not None:
            return self.example(row, name)
        assert self.conversation is not None, "a data set has conversations or examples"
        messages = self.conversation(row)
        return Conversation(name, messages) if messages else None


def text_of(row: Row, name: str) -> str:
    """The text in `row[name]`. Raises `DataError` if it is not a text, or blank."""
    value = _of_type(row, name, str, "a text")
    if not value.strip():
        raise DataError(f"{name} is blank")
    return value


def texts_of(row: Row, name: str) -> list[str]:
    """The texts in the list `row[name]`. Raises `DataError` if it is not a list of texts, or empty."""
    values = _of_type(row, name, list, "a list")
    if not values or not all(isinstance(value, str) for value in values):
        raise DataError(f"{name} is {'a list with values other than texts' if values else 'empty'}")
    return values


def rows_of(row: Row, name: str) -> list[Row]:
    """The structures in the list `row[name]`. Raises `DataError` if it contains anything else."""
    values = _of_type(row, name, list, "a list")
    if not all(isinstance(value, Mapping) for value in values):
        raise DataError(f"{name} contains values other than rows")
    return values


def mapping_of(row: Row, name: str) -> Row:
    """The structure in `row[name]`. Raises `DataError` if it is not a structure."""
    return _of_type(row, name, Mapping, "a structure")


def number_of(row: Row, name: str) -> int:
    """The whole number in `row[name]`. Raises `DataError` if it is not a whole number."""
    value = _of_type(row, name, int, "a whole number")
    if isinstance(value, bool):
        raise DataError(f"{name} is a bool instead of a whole number")
    return value


def _of_type(row: Row, name: str, kind: type, what: str) -> Any:
    value = row.get(name)
    if value is None:
        raise DataError(f"{name} is null")
    if not isinstance(value, kind):
        raise DataError(f"{name} is {type_of(value)} instead of {what}")
    return value


def without_answers(solution: str, announcements: Callable[[str], int]) -> str:
    """A solution without the lines that announce an answer, as counted by `announcements`: the target states the answer
    once, at its end."""
    return "\n".join(line for line in solution.strip().split("\n") if not announcements(line)).strip()
