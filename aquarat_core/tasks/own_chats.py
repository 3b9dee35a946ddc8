"""A user's own conversations, in the two forms that most data sets have."""

from __future__ import annotations

from typing import Literal

from aquarat_core.conversation import Message
from aquarat_core.errors import DataError
from aquarat_core.tasks.source import Row, rows_of, text_of

Form = Literal["auto", "messages", "sharegpt"]
COLUMNS = {"messages": "messages", "sharegpt": "conversations"}
"""The column with a row's turns, by form."""
_ROLES = {"messages": {role: role for role in ("system", "user", "assistant")}}
_ROLES["sharegpt"] = _ROLES["messages"] | {"human": "user", "gpt": "assistant"}
_KEYS = {"messages": ("role", "content"), "sharegpt": ("from", "value")}


def own_conversation(row: Row, form: Form) -> list[Message]:
    """The row's messages: at most one system message, then user and assistant in turn, with the assistant last.

    Raises `DataError` with the first deviation.
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
            raise DataError(f"{at}: {role_key} is {named[:40]!r}, but only {', '.join(_ROLES[known])} are known")
        if role != (expected := _expected(messages, role)):
            raise DataError(f"{at} is from the {role}, but it is the turn of the {expected}")
        messages.append({"role": role, "content": content})
    if not messages:
        raise DataError(f"{column} is empty")
    if messages[-1]["role"] != "assistant":
        raise DataError(f"{column} ends with the {messages[-1]['role']}, so there is no reply to learn")
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
    """The role whose turn it is."""
    if not before and role == "system":
        return "system"
    return "assistant" if before and before[-1]["role"] == "user" else "user"
