"""Reads `tokenizer.pkl`, the only form in which nanochat keeps its tokenizer, without unpickling it.

A pickle is a program for a small stack machine, some of whose instructions import and call anything. Nothing in this
project runs such programs, and this module does not either: `pickletools.genops` only splits the file into its
instructions, and `_Machine` follows those that build dicts of strings, bytes and integers. The one name that it knows
is `tiktoken.core Encoding`, which stands for a `_Record` here: an object that keeps the dict it is given, and does
nothing. Every other name and every other instruction (calls, persistent ids, extension codes, old-style instances,
arbitrary state) is an error, and so is a file that is too long (`read_bounded`) or has too many instructions. Memory is
in proportion to the file: no instruction that is followed can multiply data.

A pickled `tiktoken.Encoding` has the split pattern, the rank of every token and the ids of the special tokens. Their
types are checked before they become a `Tokenizer`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from aquarat_core.text.formats import from_tokens
from aquarat_core.text.tokenizer import Tokenizer, TokenizerError, read_bounded

ENCODING = ("tiktoken.core", "Encoding")
MAX_INSTRUCTIONS = 1_000_000
"""An encoding has three for each token, and a few more: 600,000 for a vocabulary of 200,000."""
FIELDS = {"name", "pat_str", "mergeable_ranks", "special_tokens"}


def load_pickled(path: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.pkl`. Raises `TokenizerError` for a file that is anything else."""
    try:
        data = read_bounded(path)
    except OSError as e:
        raise TokenizerError(f"cannot read {path}: {e.strerror}") from None
    try:
        return _tokenizer(_Machine().run(data))
    except TokenizerError as e:
        raise TokenizerError(f"{path} is not a pickled tokenizer of nanochat: {e}. Nothing in it was run") from None


class _Record:
    """Stands for a `tiktoken.Encoding`, whose constructor is never called."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: dict[Any, Any] | None = None


class _Name:
    """Stands for the class itself on the stack."""


class _Mark:
    """Stands for the beginning of the items of a dict on the stack."""


_PLAIN = frozenset({
    "BININT", "BININT1", "BININT2", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES",
})  # fmt: skip
"""Instructions that put their argument on the stack."""
_NEW = {"EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "MARK": _Mark}
_KEYS = (str, bytes)
"""Types of keys. Their hashes are seeded, so nobody can choose keys that make a dict slow."""


class _Machine:
    """The part of pickle's stack machine that builds one encoding."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> dict[Any, Any]:
        """The state of the encoding. Raises `TokenizerError` for a program that builds anything else."""
        try:
            for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
                if number >= MAX_INSTRUCTIONS:
                    raise TokenizerError(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
                self._follow(instruction.name, argument)
        except (ValueError, OverflowError) as e:
            if isinstance(e, TokenizerError):
                raise
            raise TokenizerError(f"it is damaged ({e})") from None
        except (IndexError, TypeError, KeyError):
            raise TokenizerError("it is damaged (its instructions do not fit together)") from None
        if len(self.stack) == 1 and isinstance(self.stack[0], _Record) and self.stack[0].state is not None:
            return self.stack[0].state
        raise TokenizerError("it does not hold an encoding of tiktoken")

    def _follow(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PLAIN:
            stack.append(argument)
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items(2 if name == "SETITEM" else None)
        elif name == "GLOBAL":
            self._find(*argument.split(" ", 1))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            self._find(module, attribute)
        elif name == "NEWOBJ":
            arguments, named = stack.pop(), stack.pop()
            if not isinstance(named, _Name) or arguments != ():
                _refuse("it makes an object with arguments")
            stack.append(_Record())
        elif name == "BUILD":
            state, record = stack.pop(), stack[-1]
            if not isinstance(record, _Record) or record.state is not None or not isinstance(state, dict):
                _refuse("it gives an object a state that is not the fields of an encoding")
            record.state = cast("dict[Any, Any]", state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            _refuse(f"it has the instruction {name}, which no encoding needs")

    def _set_items(self, length: int | None) -> None:
        start = len(self.stack) - length if length else self._last_mark() + 1
        items = self.stack[start:]
        del self.stack[start if length else start - 1 :]
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            _refuse("its instructions do not fit together")
        filled = cast("dict[Any, Any]", target)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _KEYS or isinstance(value, _Mark):
                _refuse("it has a dict whose keys are neither texts nor bytes")
            filled[key] = value

    def _last_mark(self) -> int:
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                return i
        _refuse("its instructions do not fit together")

    def _find(self, module: Any, attribute: Any) -> None:
        if type(module) is not str or type(attribute) is not str:
            _refuse("its instructions do not fit together")
        if (module, attribute) != ENCODING:
            _refuse(f"it refers to {module[:60]}.{attribute[:60]}")
        self.stack.append(_Name())


def _refuse(reason: str) -> NoReturn:
    raise TokenizerError(reason)


def _tokenizer(state: Mapping[Any, Any]) -> Tokenizer:
    """Raises `TokenizerError` unless the state has the fields of an encoding, each of its type."""
    if set(state) != FIELDS:
        raise TokenizerError("its fields are not " + ", ".join(sorted(FIELDS)))
    pattern, ranks, special = state["pat_str"], state["mergeable_ranks"], state["special_tokens"]
    if type(pattern) is not str:
        raise TokenizerError("its pat_str is not a text")
    tokens = _by_id(ranks, bytes, "mergeable_ranks")
    if sorted(tokens) != list(range(len(tokens))):
        raise TokenizerError("its ranks are not 0, 1, 2, ... without gaps")
    names = {name: id_ for id_, name in _by_id(special, str, "special_tokens").items()}
    return from_tokens([tokens[rank] for rank in range(len(tokens))], pattern, names)


def _by_id(numbered: Any, kind: type[Any], field: str) -> dict[int, Any]:
    if type(numbered) is not dict:
        raise TokenizerError(f"its {field} is not a dict")
    items = cast("dict[Any, Any]", numbered).items()
    if not all(type(key) is kind and type(id_) is int for key, id_ in items):
        raise TokenizerError(f"its {field} does not give each {kind.__name__} an integer")
    found = {id_: key for key, id_ in items}
    if len(found) < len(items):
        raise TokenizerError(f"its {field} gives two of them the same integer")
    return found
