"""Parses JSON from untrusted sources within bounds: whatever the bytes are, the result is a value or one named error.

Size and depth are checked before anything is built, so a hostile object costs no more than reading its bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, TypeVar, cast, overload

from pydantic import BaseModel, ValidationError

from aquarat_core.artifacts.errors import RecordError

MAX_BYTES = 16 << 20
MAX_DEPTH = 64
MAX_TEXT = 300
"""Limit for the characters of an error message that come from the object itself."""

_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
Model = TypeVar("Model", bound=BaseModel)


@overload
def parse(data: bytes, what: str, remedy: str, kind: Literal["object"], limit: int = MAX_BYTES) -> dict[str, Any]: ...
@overload
def parse(data: bytes, what: str, remedy: str, kind: Literal["any"] = "any", limit: int = MAX_BYTES) -> Any: ...
def parse(data: bytes, what: str, remedy: str, kind: Literal["object", "any"] = "any", limit: int = MAX_BYTES) -> Any:
    """The JSON value in `data`. Raises `RecordError`, which says what the object is, what is wrong and the `remedy`.

    Accepts at most `limit` bytes of UTF-8, nested at most `MAX_DEPTH` deep. With `kind` "object", the value must be a
    JSON object.
    """
    if not data:
        raise RecordError(what, "it is empty", remedy)
    if len(data) > limit:
        raise RecordError(what, f"it has {len(data):,} bytes, more than the limit of {limit:,}", remedy)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RecordError(what, "it is not UTF-8 text", remedy) from None
    if _is_deep(text):
        raise RecordError(what, f"it is nested more than {MAX_DEPTH} levels deep", remedy)
    try:
        value = json.loads(text)
    except ValueError as e:
        raise RecordError(what, f"it is not valid JSON ({e})", remedy) from None
    if kind == "object" and not isinstance(value, dict):
        raise RecordError(what, f"it is {kind_of(value)}, not an object", remedy)
    return cast(Any, value)


def parse_as(model: type[Model], data: bytes, what: str, remedy: str, limit: int = MAX_BYTES) -> Model:
    """Parses the object in `data` as `model`. Raises `RecordError` as `parse` does, also for invalid fields."""
    return validated(model, parse(data, what, remedy, "object", limit), what, remedy)


def validated(model: type[Model], value: dict[str, Any], what: str, remedy: str) -> Model:
    """Validates `value` as `model`. Raises `RecordError` that names the first invalid field."""
    try:
        return model.model_validate(value)
    except ValidationError as e:
        raise RecordError(what, first_error(e), remedy) from None


def first_error(error: ValueError) -> str:
    """The model's message about the first invalid field, in printable characters."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        where = ".".join(map(str, first["loc"]))
        return printable(f"{where}: {message}" if where else message)
    return printable(str(error))


def printable(text: str) -> str:
    """`text` as a single shortened line, with characters escaped that a terminal might interpret or cannot show."""
    cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def _is_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _BRACKETS.finditer(text):
        token = match[0]
        if token in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token in ("]", "}"):
            depth -= 1
    return False


def kind_of(value: object) -> str:
    """The JSON type of a value, for messages."""
    names: dict[type, str] = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
