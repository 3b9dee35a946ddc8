"""Reads the imports and the behavior of a source file with `ast`."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple, cast

TALK = frozenset({"log", "print", "progress"})
"""Functions and methods that only report something, if the call is a statement of its own."""
_IMPORTS = (ast.Import, ast.ImportFrom)
_DOTTED = re.compile(r"""["'](\w+(?:\.\w+)+)["']""")


class Import(NamedTuple):
    """`import module`, if `name` is None, or `from module import name as alias`."""

    module: str
    name: str | None = None
    alias: str | None = None


class Parsed(NamedTuple):
    """One source file."""

    imports: tuple[Import, ...]
    """All imports, including those in functions, except those only for type checkers."""
    passes_on: dict[str, Import]
    """Names imported at the top level, which other modules can import from here."""
    only_passes_on: bool
    """Whether it has no code of its own, only docstring, imports and `__all__`."""
    dotted: tuple[str, ...]
    """Texts that could be module names, as for `python -m`."""
    digest: str
    """SHA-256 of the file's behavior: comments, docstrings and layout do not change it."""
    quiet_digest: str
    """Like `digest`, but without messages: log lines, progress, and the texts of errors."""


def parse(text: str, package: str) -> Parsed:
    """Parses a file of `package`, which its relative imports refer to. Raises `SyntaxError`."""
    tree = ast.parse(text)
    found = [i for node in _statements(tree.body) if isinstance(node, _IMPORTS) for i in _imported(node, package)]
    top = [i for node in tree.body if isinstance(node, ast.ImportFrom) for i in _imported(node, package)]
    writer = _Writer()
    writer.write(tree)
    return Parsed(
        tuple(found),
        {i.alias: i for i in top if i.alias},
        all(map(_passes_on, tree.body)),
        tuple(dict.fromkeys(_DOTTED.findall(text))),
        writer.digest(),
        writer.quiet_digest(),
    )


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at any depth. Expressions contain no imports and are not searched."""
    for node in body:
        yield node
        parts = [node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())]
        fields = ("orelse",) if isinstance(node, ast.If) and _for_type_checkers(node.test) else _BODIES
        for part in parts:
            for field in fields:
                yield from _statements(getattr(part, field, ()))


_BODIES = ("body", "orelse", "finalbody")


def _for_type_checkers(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name) for alias in node.names)
        return
    module = node.module or ""
    if node.level:
        base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
        module = f"{base}.{module}" if module else base
    yield from (Import(module, alias.name, alias.asname or alias.name) for alias in node.names)


def _passes_on(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    return isinstance(node, _IMPORTS) or _is_text(node)


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is only a text: the docstring of a module, class, function or field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_talk(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    called = node.value.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in TALK


class _Writer:
    """Writes a tree as text that is the same in every version of Python, unlike `ast.dump`, whose fields grow."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._told: list[tuple[int, int]] = []
        """Positions in `_parts` that are only messages."""

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self._parts).encode()).hexdigest()

    def quiet_digest(self) -> str:
        kept, at = list[str](), 0
        for start, end in self._told:
            kept += self._parts[at:start]
            at = end
        return hashlib.sha256("\n".join(kept + self._parts[at:]).encode()).hexdigest()

    def write(self, node: ast.AST) -> None:
        kind, out = type(node), self._parts.append
        out(kind.__name__)
        for field in _fields(kind):
            value = getattr(node, field, None)
            if value is None:
                continue
            if isinstance(value, ast.AST):
                out(field)
                if field == "exc" and isinstance(value, ast.Call):
                    self.write(value.func)
                    self._tell(lambda raised=value: self._write_text_of(raised))
                else:
                    self.write(value)
            elif not isinstance(value, list):
                out(field)
                out(ascii(value))
            elif value:  # newer versions add lists that are mostly empty
                out(field)
                self._write_list(
                    _joined(node.values) if isinstance(node, ast.JoinedStr) else cast("list[object]", value)
                )
        out(")")

    def _write_list(self, values: Sequence[object]) -> None:
        for value in values:
            if not isinstance(value, ast.AST):
                self._parts.append(ascii(value))
            elif not isinstance(value, ast.Expr):
                self.write(value)
            elif _is_talk(value):
                self._tell(lambda told=value: self.write(told))
            elif not _is_text(value):
                self.write(value)

    def _write_text_of(self, raised: ast.Call) -> None:
        self._write_list([*raised.args, *raised.keywords])

    def _tell(self, write: Callable[[], None]) -> None:
        start = len(self._parts)
        write()
        self._told.append((start, len(self._parts)))


def _joined(values: Iterable[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string. Python 3.12.1 keeps adjacent and empty texts separate; other versions do not."""
    joined: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and value.value == "":
            continue
        if isinstance(value, ast.Constant) and joined and isinstance(joined[-1], ast.Constant):
            joined[-1] = ast.Constant(f"{joined[-1].value}{value.value}")
        else:
            joined.append(value)
    return joined


@cache
def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    """The meaningful fields of a kind of node: `ctx` follows from the position, `kind` is the u of u""."""
    return tuple(field for field in kind._fields if field not in ("ctx", "kind", "type_comment"))
