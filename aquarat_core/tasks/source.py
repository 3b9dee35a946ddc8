"""What the description of a conversation data set on the Hub holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.tasks.aqua import Message

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where a data set's rows are and how one becomes a conversation."""

    repo: str
    subsets: tuple[str, ...]
    """Taken one after the other."""
    train: str | None
    """Name of the split to train on; None if the data set has none."""
    test: str
    columns: tuple[str, ...]
    conversation: Callable[[Row], list[Message] | None]
    """A row as messages, or None for a row that cannot be used."""
