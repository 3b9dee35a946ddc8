"""Conversations of a user's own, in the two forms that most data sets have."""

from __future__ import annotations

from typing import Literal

from aquarat_core.conversation import Message
from aquarat_core.errors import DataError
from aquarat_core.tasks.source import Row, rows_of, text_of

Form = Literal["auto", "messages", "sharegpt"]
COLUMNS = {"messages": "messages", "sharegpt": "conversations"}
"""The column that each form keeps a row's turns in."""
_ROLES = {"messages": {role: role for role in ("system", "user", "assistant")}}
_ROLES["sharegpt"] = _ROLES["messages"] | {"human": "user", "gpt": "assistant"}
_KEYS = {"messages": ("role", "content"), "sharegpt": ("from", "value")}


def own_conversation(row: Row, form: Form) -> list[Message]:
    """The row's messages: after at most one system message, user and assistant take turns and the assistant ends.

    Raises `DataError` with the first thing that is otherwise.
    """
    known = _form_of(row) if form == "auto" else form
    column, (role_key, text_key) = COLUMNS[known], _KEYS[known]
    messages: list[Message] = []
    for i, turn in enumerate(rows_of(row, column)):
        at = f"{column}[{i}]"
        try:
            named, content = text_of(turn, role_key), text_of(turn, text_key)
        except DataError as e:
            raise DataError(f"{at}: {e}") from None
        role = _ROLES[known].get(named)
        if role is None:
            raise DataError(f"{at}: {role_key} is {named[:40]!r}, and only {', '.join(_ROLES[known])} are known")
        if role != (expected := _expected(messages, role)):
            raise DataError(f"{at} is of the {role}, and it is the turn of the {expected}")
        messages.append({"role": role, "content": content})
    if not messages:
        raise DataError(f"{column} is empty")
    if messages[-1]["role"] != "assistant":
        raise DataError(f"{column} ends with the {messages[-1]['role']}, and there is nothing to learn after that")
    return messages


def _form_of(row: Row) -> str:
    found = [form for form, column in COLUMNS.items() if row.get(column) is not None]
    if len(found) != 1:
        raise DataError(
            f"it has {'both' if found else 'neither'} of the columns messages (role, content) and conversations (from, "
            "value)"
        )
    return found[0]


def _expected(before: list[Message], role: str) -> str:
    """Whose turn it is."""
    if not before and role == "system":
        return "system"
    return "assistant" if before and before[-1]["role"] == "user" else "user"
