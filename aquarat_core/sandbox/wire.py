"""Values between the judge and the program: plain data as JSON, in frames; runs inside the sandbox.

The program can only send data: an object of one of its own classes arrives as a value that equals nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

MAX_FRAME = 4 << 20
_SMALL = 1 << 53


class Unsendable(Exception):
    """A value that is not plain data."""


class Foreign:
    """Stands for a value that is not plain data; equals nothing but itself."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __repr__(self) -> str:
        return f"<a value of type {self.type_name}>"


def encode(value: Any, strict: bool = False) -> Any:
    """`value` in a form that JSON can represent. With `strict`, raises `Unsendable` for other than plain data."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -_SMALL < value < _SMALL else {"t": "int", "v": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return _all(cast("list[Any]", value), strict)
    if isinstance(value, dict):
        return {"t": "dict", "v": [_all(pair, strict) for pair in cast("dict[Any, Any]", value).items()]}
    for name, kind in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return {"t": name, "v": _all(cast("Iterable[Any]", value), strict)}
    for name, kind in (("bytes", bytes), ("bytearray", bytearray)):
        if isinstance(value, kind):
            return {"t": name, "v": value.hex()}
    if isinstance(value, complex):
        return {"t": "complex", "v": [value.real, value.imag]}
    if isinstance(value, Fraction):
        return {"t": "Fraction", "v": [encode(value.numerator), encode(value.denominator)]}
    if isinstance(value, Decimal):
        return {"t": "Decimal", "v": str(value)}
    if strict:
        raise Unsendable(f"the tests give the program a {type(value).__name__}: only plain data can be sent to it")
    return {"t": "foreign", "v": type(value).__name__}


def _all(values: Iterable[Any], strict: bool) -> list[Any]:
    return [encode(value, strict) for value in values]


def decode(value: Any) -> Any:
    """The value that was passed to `encode`. Raises some exception for any other input."""
    if isinstance(value, list):
        return [decode(x) for x in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    tagged = cast("dict[str, Any]", value)
    kind, inner = str(tagged["t"]), tagged["v"]
    if kind == "dict":
        return {decode(k): decode(v) for k, v in inner}
    if kind in _OF_VALUES:
        return _OF_VALUES[kind](decode(x) for x in inner)
    if kind == "int":
        return int(inner, 16)
    if kind in _OF_HEX:
        return _OF_HEX[kind].fromhex(inner)
    if kind == "complex":
        return complex(*inner)
    if kind == "Fraction":
        return Fraction(*(decode(x) for x in inner))
    if kind == "Decimal":
        return Decimal(inner)
    return Foreign(str(inner))


_OF_VALUES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_OF_HEX: dict[str, Any] = {"bytes": bytes, "bytearray": bytearray}


def frame(message: Any) -> bytes:
    """A message preceded by its length. Raises `Unsendable` if it is too long."""
    data = json.dumps(message).encode()
    if len(data) > MAX_FRAME:
        raise Unsendable(f"a message of {len(data)} bytes, above the limit of {MAX_FRAME}")
    return len(data).to_bytes(4, "big") + data


def send(file: int, message: Any) -> None:
    """Write one frame. Raises `Unsendable`, or `OSError` if the other side has ended."""
    data = memoryview(frame(message))
    while data:
        data = data[os.write(file, data) :]


def receive(file: int) -> Any:
    """Read exactly one frame. Raises `EOFError` at the end, `ValueError` for an invalid frame."""
    length = int.from_bytes(_exactly(file, 4), "big")
    if length > MAX_FRAME:
        raise ValueError(f"a message of {length} bytes")
    return json.loads(_exactly(file, length))


def _exactly(file: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = os.read(file, length)
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
