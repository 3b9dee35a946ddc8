"""Single fields of a profile given on a command line, such as `rl_checkpoint.steps=20`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast, get_origin

from pydantic import BaseModel

from aquarat_core.config import strict_yaml
from aquarat_core.config.fields import ConfigError
from aquarat_core.config.profile import Profile, override
from aquarat_core.config.validation import did_you_mean, kinds_at

Path = tuple[str, ...]
"""The names that lead to a field of a profile: `("rl_checkpoint", "steps")`."""


def overrides(profile: Profile, given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The values of `SECTION.FIELD=VALUE` texts as nested mappings by section, in the types of the config.

    Values are written as in YAML. Raises `ConfigError` if one names no field, is out of range, or does not fit the rest
    of the profile.
    """
    changes: dict[str, dict[str, Any]] = {}
    paths: list[Path] = []
    for text in given:
        path, value = _parsed(text)
        for other in paths:
            if path[: len(other)] == other[: len(path)]:
                raise ConfigError(
                    f"{'.'.join(min(path, other, key=len))} is set twice: set it as a whole or its fields"
                )
        paths.append(path)
        _put(changes, path, value)
    held: Mapping[str, Any] = override(profile, cast("dict[str, Any]", changes)).model_dump(mode="json")
    # The validated values: a number that was written as a text is one.
    for path in paths:
        _put(changes, path, _get(held, path))
    return changes


def field_names(model: type[BaseModel] = Profile) -> Iterator[str]:
    """All fields of a profile's sections with dots between the names, those of nested models included."""
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{name}.{field}" for field in field_names(inner))
        elif model is not Profile:
            yield name


def _parsed(text: str) -> tuple[Path, Any]:
    name, equals, value = text.partition("=")
    path = tuple(name.strip().split("."))
    if not equals or len(path) < 2:
        raise ConfigError(f"{text!r} is not a field and its value, such as rl_checkpoint.steps=20")
    sections = [name for name, info in Profile.model_fields.items() if _is_model(info.annotation)]
    if path[0] not in sections:
        hint = "eval_report sets a field of all eval reports; " if path[0].endswith("_eval_report") else ""
        near = hint or did_you_mean(path[0], sections)
        raise ConfigError(f"{name}: a profile has no section {path[0]!r}; {near}there are {', '.join(sections)}")
    for n in range(2, len(path)):
        if any(get_origin(kind) in (tuple, list) for kind in kinds_at(Profile, path[:n])):
            whole = ".".join(path[:n])
            raise ConfigError(f"{name}: {whole} is a list, and a list is set as a whole, as in {whole}='[...]'")
    return path, strict_yaml.parse(value, f"the value of {name}")


def _put(changes: dict[str, Any], path: Iterable[str], value: Any) -> None:
    *parents, last = path
    for name in parents:
        changes = changes.setdefault(name, {})
    changes[last] = value


def _get(held: Any, path: Iterable[str]) -> Any:
    for name in path:
        held = held[name]
    return held


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
