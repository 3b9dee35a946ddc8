"""The imports between our modules, read from the sources without importing anything.

Imports inside functions count; those only for type checkers do not. A text that is a module's dotted name also counts,
for `python -m`. A table entry `module:name` does not, because the users of a table state which entries they use. A name
that a package's `__init__` only re-exports counts as an import of the module that defines it, so that using one config
class does not mean depending on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from aquarat_core.stages.memo import Memo
from aquarat_core.stages.parsing import Import, Parsed


class ImportGraph:
    """The modules of some packages in the folder `root`, by dotted name. What was read is cached; the file `memo` keeps
    it for later processes.

    Without `texts`, only imports count.
    """

    def __init__(self, root: Path, packages: Iterable[str], memo: Path | None = None, *, texts: bool = True) -> None:
        self.root, self.packages, self._texts = root, tuple(packages), texts
        self._memo = Memo(memo)
        self._paths: dict[str, Path | None] = {}
        self._parsed: dict[str, Parsed] = {}
        self._edges: dict[str, frozenset[str]] = {}

    def all(self) -> list[str]:
        """All module names, sorted."""
        paths = (path for package in self.packages for path in (self.root / package).rglob("*.py"))
        parts = (path.relative_to(self.root).with_suffix("").parts for path in paths)
        return sorted(".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts)

    def __contains__(self, name: str) -> bool:
        return self._path(name) is not None

    def __getitem__(self, name: str) -> Parsed:
        """The module with that name. Raises `KeyError` if there is none."""
        if name not in self._parsed:
            if (path := self._path(name)) is None:
                raise KeyError(f"there is no module {name} under {self.root}")
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            self._parsed[name] = self._memo.parse(path.read_bytes(), package)
        return self._parsed[name]

    def imports(self, name: str) -> frozenset[str]:
        """The names of our modules that module `name` imports, including packages around them whose `__init__` has
        code."""
        if name not in self._edges:
            parsed = self[name]
            found = {target for i in parsed.imports if (target := self._target(i))}
            found.update(dotted for dotted in parsed.dotted if self._texts and dotted in self)
            around = {package for other in found for package in _packages_of(other) if package in self}
            found.update(package for package in around if not self[package].only_passes_on)
            self._edges[name] = frozenset(found - {name})
        return self._edges[name]

    def others(self, name: str) -> frozenset[str]:
        """The top-level names of other packages that module `name` imports."""
        return frozenset(i.module.split(".")[0] for i in self[name].imports) - set(self.packages)

    def closure(self, names: Iterable[str], leave_out: Callable[[str], bool] = lambda name: False) -> frozenset[str]:
        """`names` and everything they import, directly or indirectly, except modules that are left out and their
        imports.

        Raises `KeyError` for a name that is not a module.
        """
        found, waiting = set[str](), set(names)
        while waiting:
            found |= waiting
            waiting = {i for name in waiting for i in self.imports(name) if not leave_out(i)} - found
        if self._memo.has_news:
            self._save()
        return frozenset(found)

    def _save(self) -> None:
        """Writes the memo with all modules, so that later closures of this process have nothing to add."""
        for name in self.all():
            with suppress(SyntaxError, UnicodeDecodeError):  # in a module that may not be needed here
                self[name]
        self._memo.save()

    def _path(self, name: str) -> Path | None:
        if name not in self._paths:
            place = self.root.joinpath(*name.split("."))
            ours = name.split(".")[0] in self.packages
            candidates = (place.with_suffix(".py"), place / "__init__.py") if ours else ()
            self._paths[name] = next((path for path in candidates if path.is_file()), None)
        return self._paths[name]

    def _target(self, wanted: Import) -> str | None:
        """The module that an import needs; None if it is not ours."""
        module, name, _ = wanted
        if name is not None and f"{module}.{name}" in self:
            return f"{module}.{name}"
        if module not in self:
            return None
        passed = self[module].passes_on.get(name) if name is not None and self._is_package(module) else None
        return (self._target(passed) if passed else None) or module

    def _is_package(self, name: str) -> bool:
        path = self._path(name)
        return path is not None and path.name == "__init__.py"


def _packages_of(name: str) -> Iterator[str]:
    """The packages around a module, whose `__init__` runs before it."""
    while name := name.rpartition(".")[0]:
        yield name
