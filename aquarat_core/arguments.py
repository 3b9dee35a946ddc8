"""Checks of what callers from Python pass: a wrong type or an impossible number becomes one sentence that names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import cast

from aquarat_core.conversation import Message
from aquarat_core.errors import UsageError

EXAMPLE = "{'role': 'user', 'content': 'Hi'}"


@dataclass(frozen=True, slots=True)
class How:
    """How to generate: arguments that were checked."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    stop: tuple[str, ...]
    samples: int
    calculator: bool
    special_tokens: bool


def text(name: str, given: object) -> str:
    """Raises `UsageError` for anything but Unicode text."""
    if not isinstance(given, str):
        raise UsageError(f"{name} is {kind(given)}, but must be text (str)")
    try:
        given.encode()
    except UnicodeError:
        raise UsageError(f"{name} contains half of a character (a lone surrogate), which is not Unicode text") from None
    return given


def texts(name: str, given: object) -> list[str]:
    """One text or several, as a list. Raises `UsageError` for anything else."""
    if isinstance(given, str):
        return [text(name, given)]
    if not _lists(given):
        raise UsageError(f"{name} is {kind(given)}, but must be text (str) or a list of texts")
    return [text(f"{name}[{i}]", one) for i, one in enumerate(cast("Iterable[object]", given))]


def whole(name: str, given: object, at_least: int | None = None) -> int:
    """Raises `UsageError` for anything but a whole number in range. NumPy's are accepted too."""
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise UsageError(f"{name} is {kind(given)}, but must be a whole number (int)")
    if at_least is not None and given < at_least:
        raise UsageError(f"{name} is {given}, but must be at least {at_least}")
    return int(given)


def number(name: str, given: object) -> float:
    """Raises `UsageError` for anything but a number that a float holds."""
    if isinstance(given, bool) or not isinstance(given, Real):
        raise UsageError(f"{name} is {kind(given)}, but must be a number (float)")
    try:
        return float(given)
    except OverflowError:
        raise UsageError(f"{name} is larger than any float") from None


def flag(name: str, given: object) -> bool:
    """Raises `UsageError` for anything but True and False."""
    if not isinstance(given, bool):
        raise UsageError(f"{name} is {kind(given)}, but must be True or False")
    return given


def conversation(given: object) -> list[Message]:
    """A text as a message of the user, or messages as they are. Raises `UsageError` for anything else."""
    if isinstance(given, str):
        return [{"role": "user", "content": text("the message", given)}]
    if not _lists(given):
        raise UsageError(f"messages is {kind(given)}, but must be text (str) or a list of messages such as {EXAMPLE}")
    said: list[Message] = []
    for i, one in enumerate(cast("Iterable[object]", given)):
        held = cast("Mapping[str, object]", one if isinstance(one, Mapping) else {})
        role, content = held.get("role"), held.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise UsageError(f"message {i} is not a role and a content, such as {EXAMPLE}")
        said.append({"role": role, "content": text(f"message {i}", content)})
    return said


def how(
    max_new_tokens: object,
    temperature: object,
    top_k: object,
    top_p: object,
    seed: object,
    stop: object,
    samples: object,
    calculator: object,
    special_tokens: object,
) -> How:
    """Raises `UsageError` for an argument of another type; the engine checks the ranges of temperature and cuts."""
    return How(
        whole("max_new_tokens", max_new_tokens, 1),
        number("temperature", temperature),
        None if top_k is None else whole("top_k", top_k),
        None if top_p is None else number("top_p", top_p),
        whole("seed", seed),
        tuple(texts("stop", stop)),
        whole("samples", samples, 1),
        flag("calculator", calculator),
        flag("special_tokens", special_tokens),
    )


def _lists(given: object) -> bool:
    """Whether it can be a list of texts or messages. Bytes and mappings cannot: their items are numbers and keys."""
    return isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray, Mapping))


def kind(given: object) -> str:
    """The type of a wrong argument, in words for an error."""
    return "None" if given is None else f"of type {type(given).__name__}"
