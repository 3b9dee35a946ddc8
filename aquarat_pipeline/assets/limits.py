"""Config types for numbers with limits: Dagster then refuses to launch a run with a value out of range, and names the
field."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, cast, get_args, get_origin

from aquarat_pipeline._compat import ConfigScalar, ConfigScalarKind, PostProcessingError

Limits = tuple[tuple[str, float], ...]
"""Names of pydantic's limits (`ge`, `lt`, ...), each with its number."""
_ABSURD = 1e9
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}


def limits_of(info: Any) -> Limits:
    """The limits of a pydantic field's number, also of one that may be null instead."""
    return tuple(
        (name, limit)
        for constraint in _constraints(info)
        for name in _SIGNS
        if isinstance(limit := getattr(constraint, name, None), int | float)
    )


def limits_text(limits: Limits) -> str:
    """`≥ 1 and ≤ 256`; without limits that are only there to catch absurd values."""
    return " and ".join(f"{_SIGNS[name]} {limit:,}" for name, limit in limits if abs(limit) < _ABSURD)


@functools.cache
def limited(kind: type, limits: Limits) -> ConfigScalar:
    """The config type of an integer or a float within limits; one for each, because Dagster wants equal names to be the
    same object."""
    return _Limited(kind, limits)


class _Limited(ConfigScalar):
    def __init__(self, kind: type, limits: Limits) -> None:
        self._limits = limits
        scalar = ConfigScalarKind.INT if kind is int else ConfigScalarKind.FLOAT
        name = "Int" if kind is int else "Float"
        key = f"{name} {' '.join(f'{_SIGNS[limit]}{number:g}' for limit, number in limits)}"
        super().__init__(
            key=key, given_name=f"{name} {limits_text(limits)}".strip(), scalar_kind=scalar, description=None
        )

    def post_process(self, value: Any) -> Any:
        """The value. Raises Dagster's error for one that is out of range."""
        if not all(_HOLDS[name](value, limit) for name, limit in self._limits):
            raise PostProcessingError(f"it must be {limits_text(self._limits)}, but is {value}")
        return value


def _constraints(info: Any) -> Iterator[Any]:
    yield from _flat(info.metadata)
    for part in get_args(info.annotation):
        if get_origin(part) is Annotated:
            yield from _flat(get_args(part)[1:])


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for one in metadata:
        inner = getattr(one, "metadata", None)
        yield from _flat(cast("list[Any]", inner)) if isinstance(inner, list) else (one,)
