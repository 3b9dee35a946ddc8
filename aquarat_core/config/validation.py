"""Validates input against a config class, with one line for each mistake."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from aquarat_core.config.fields import ConfigError
from aquarat_core.config.locations import without_secrets

ALIKE = 0.75
"""Minimum similarity at which an unknown field counts as a misspelled one."""
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
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], (dict, BaseModel)) else f" (got {without_secrets(repr(error['input']))})"
    return f"{field}: {message}{shown}"


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ["see aquarat_core/config/"]
        model = inner
    return sorted(model.model_fields)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'arc_easy'? `, with the known name that is nearest to `name`; empty if none is near."""
    near = get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]!r}? " if near else ""
