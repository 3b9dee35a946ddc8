"""Validates input against a config class, with one line for each mistake."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeGuard, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from aquarat_core.config.fields import ConfigError, branches
from aquarat_core.config.locations import without_secrets

ALIKE = 0.75
"""Minimum similarity at which an unknown field counts as a misspelled one."""
_SHAPES = {
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "dict_type": "should be a mapping of names to values",
    "model_type": "should be a mapping of fields to values",
}
"""Messages for pydantic's types of errors, in the words of YAML."""
M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], raw: Any, where: str) -> M:
    """`raw` as `model`, or a `ConfigError` with one line for each mistake."""
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        lines = "\n".join(f"  {_explain(err, model)}" for err in e.errors())
        raise ConfigError(f"{where} cannot be used:\n{lines}") from None


def _explain(error: Any, model: type[BaseModel]) -> str:
    field = ".".join(str(part) for part in error["loc"]) or "profile"
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        alike = get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=ALIKE)
        meant = "".join(f" did you mean {name}?" for name in alike)
        return f"{field}: unknown field;{meant} known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{field}: missing"
    message = _SHAPES.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], (dict, BaseModel)) else f" (got {without_secrets(repr(error['input']))})"
    return f"{field}: {message}{shown}"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The fields of the innermost models on the path: the branch of a union at its end may have the name of a field."""
    for end in range(len(path), 0, -1):
        found = {name for kind in kinds_at(model, path[:end]) if _is_model(kind) for name in kind.model_fields}
        if found:
            return sorted(found)
    return sorted(model.model_fields)


def kinds_at(kind: Any, path: Iterable[Any]) -> list[Any]:
    """The types that the value at `path` may have, where the value at the beginning may have the type `kind`.

    A path consists of names of fields, keys and places in lists. Parts that are none of them are skipped: pydantic also
    names the branch of a union.
    """
    kinds = branches(kind)
    for part in path:
        inner = [found for kind in kinds for found in _inside(kind, part)]
        kinds = inner or kinds
    return kinds


def _inside(kind: Any, part: Any) -> list[Any]:
    """The types of one part of a value of the type `kind`."""
    if _is_model(kind):
        return branches(kind.model_fields[part].annotation) if part in kind.model_fields else []
    arguments = get_args(kind)
    if get_origin(kind) in (tuple, list) and isinstance(part, int):
        return branches(arguments[0])
    return branches(arguments[1]) if get_origin(kind) is dict else []


def _is_model(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'arc_easy'? `, with the known name that is nearest to `name`; empty if none is near."""
    near = get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]!r}? " if near else ""
