"""Who imports whom, read from made-up sources."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aquarat_core.stages import memo as memos
from aquarat_core.stages import parsing
from aquarat_core.stages.import_graph import ImportGraph
from aquarat_core.stages.parsing import parse

Write = Callable[[dict[str, str]], ImportGraph]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files of a package `p` and reads them as a graph."""

    def written(files: dict[str, str]) -> ImportGraph:
        for name, text in {"p/__init__.py": "", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return ImportGraph(tmp_path, ["p"])

    return written


def test_imports_of_every_form_and_at_every_depth_count(write: Write) -> None:
    leaves = {f"p/leaf{i}.py": "" for i in range(9)}
    graph = write(
        leaves
        | {
            "p/a.py": "import p.leaf0\nimport os, json\nfrom p import leaf1 as x\nfrom p.leaf2 import f\n"
            "from . import leaf3\nfrom .leaf4 import g\nfrom numpy import array\n"
            "def f():\n    try:\n        pass\n    except OSError:\n        import p.leaf5\n"
            "class C:\n    def g(self):\n        match self:\n            case 1:\n"
            "                from p import leaf6\n"
            "        with self: import p.leaf7\n        for _ in (): pass\n        else: import p.leaf8\n"
        }
    )
    assert graph.imports("p.a") == {f"p.leaf{i}" for i in range(9)}
    assert graph.others("p.a") == {"os", "json", "numpy"}
    assert graph.closure(["p.a"], {"p.leaf3"}.__contains__) == {"p.a"} | {f"p.leaf{i}" for i in range(9) if i != 3}
    with pytest.raises(KeyError, match=r"no module p\.nothing"):
        graph.closure(["p.nothing"])


def test_what_only_a_type_checker_imports_does_not_count(write: Write) -> None:
    graph = write(
        {
            "p/a.py": "import typing\nif typing.TYPE_CHECKING:\n    import p.b\nelse:\n    import p.c\n",
            "p/b.py": "",
            "p/c.py": "",
        }
    )
    assert graph.imports("p.a") == {"p.c"}


def test_a_text_that_names_a_module_counts_and_an_entry_of_a_table_does_not(write: Write) -> None:
    graph = write({"p/a.py": "run('-m', 'p.b')\nTABLE = {'c': 'p.c:run'}\nTEXT = 'p.no'\n", "p/b.py": "", "p/c.py": ""})
    assert graph.imports("p.a") == {"p.b"}


def test_a_name_that_a_package_passes_on_is_an_import_of_who_defines_it(write: Write) -> None:
    graph = write(
        {
            "p/q/__init__.py": "'Q.'\nfrom p.q.one import One\nfrom p.q.two import Two as Zwei\n__all__ = ['One']\n",
            "p/q/one.py": "class One: ...",
            "p/q/two.py": "class Two: ...",
            "p/a.py": "from p.q import One",
            "p/b.py": "from p.q import Zwei",
            "p/c.py": "import p.q",
            "p/d.py": "from p.q import nothing",
            # What does something of its own runs for whoever imports anything below it.
            "p/r/__init__.py": "from p.q import One\nTABLE = {}\n",
            "p/r/three.py": "",
            "p/e.py": "import p.r.three",
        }
    )
    assert graph.imports("p.a") == {"p.q.one"} and graph.imports("p.b") == {"p.q.two"}
    assert graph.imports("p.c") == graph.imports("p.d") == {"p.q"}
    assert graph.closure(["p.e"]) == {"p.e", "p.r", "p.r.three", "p.q.one"}


PLAIN = "def f(x, *, y=1.5):\n    if x: return [x, y]\n    raise ValueError(f'{x!r} is bad')\n"


@pytest.mark.parametrize(
    "same",
    [
        "# why\n" + PLAIN,
        '"""What."""\n' + PLAIN,
        PLAIN.replace("    if", '    """Does."""\n    if'),
        PLAIN.replace("if x: return", "if x:\n\n        # because\n        return"),
        PLAIN.replace("[x, y]", "[\n        x,\n        (y),\n    ]"),
        PLAIN.replace("1.5", "1.50"),
    ],
)
def test_comments_docstrings_and_layout_are_not_what_a_file_does(same: str) -> None:
    assert parse(same, "p").digest == parse(PLAIN, "p").digest


@pytest.mark.parametrize(
    "other",
    [
        PLAIN.replace("1.5", "1.6"),
        PLAIN.replace("[x, y]", "[y, x]"),
        PLAIN.replace("[x, y]", "(x, y)"),
        PLAIN.replace("*, ", ""),
        PLAIN.replace("if x", "if not x"),
        PLAIN.replace("f(", "g("),
        PLAIN.replace("    raise", "    print(x)\n    raise"),
        PLAIN.replace("bad", "worse"),
        PLAIN.replace("!r", "!s"),
    ],
)
def test_anything_else_is(other: str) -> None:
    assert parse(other, "p").digest != parse(PLAIN, "p").digest


def test_what_is_only_told_is_left_out_of_the_quiet_digest() -> None:
    quiet = parse(PLAIN, "p").quiet_digest
    for told in (
        PLAIN.replace("is bad", "is worse"),
        PLAIN.replace("    if", "    log.log(1)\n    if"),
        PLAIN.replace("    if", "    print(x)\n    self.ctx.progress(x)\n    if"),
    ):
        assert parse(told, "p").quiet_digest == quiet
    for done in (
        PLAIN.replace("ValueError", "KeyError"),
        PLAIN.replace("    if", "    y = x.log()\n    if"),
        PLAIN.replace("    if", "    x.log_()\n    if"),
        PLAIN.replace("return [x, y]", "return log(x)"),
        PLAIN.replace("    raise ValueError(f'{x!r} is bad')\n", ""),
    ):
        assert parse(done, "p").quiet_digest != quiet


SOURCE = """
import a.b as c
@d(x=1)
async def f(): ...
class K(B, m=M):
    x: int = -2
    def g(self, /, a, *b, c=None, **d) -> "K":
        return f"{a!r:>{b}}" "x" f"{c=}"
try:
    pass
except* E as e:
    del e
match x:
    case {"a": [1, *_], **r} if r: y = lambda: (yield)
z = [i for i in b"\\xff" if i] + [1j, ..., True, "\u00e4", 1e400]
with a as b, c:
    global_ = {**x, 1: {2}}
"""


def test_the_digest_is_the_same_in_every_version_of_python() -> None:
    """Hosts may run another one than the control host. The source has what versions of `ast` show differently."""
    assert parse(SOURCE, "p").digest == "b8b0be91227c07ee2d794598d960c9b4b1da4fa9321c9a888a1f8ca2806a8593"


def test_a_process_parses_only_what_another_has_not(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"p/a.py": "from p import b", "p/b.py": "x = 1"})
    memo = tmp_path / "cache/sources.json"
    parsed: list[str] = []
    monkeypatch.setattr(parsing, "parse", lambda text, package: parsed.append(text) or parse(text, package))

    def digests() -> list[str]:
        graph = ImportGraph(tmp_path, ["p"], memo)
        assert graph.closure(["p.a"]) == {"p.a", "p.b"}
        return [graph[name].digest for name in ("p.a", "p.b")]

    first = digests()
    assert sorted(parsed) == ["", "from p import b", "x = 1"]
    assert digests() == first and len(parsed) == 3, "nothing has changed"
    (tmp_path / "p/b.py").write_text("x = 2")
    os.utime(tmp_path / "p/b.py", (0, 0))
    assert digests()[1] != first[1] and parsed[3:] == ["x = 2"]
    for broken in (
        b"",
        b"[]",
        b'{"reader": 1}',
        memo.read_bytes()[:-9],
        b"\xff",
        json.dumps({"reader": "other"}).encode(),
    ):
        memo.write_bytes(broken)
        parsed.clear()
        digests()
        assert len(parsed) == 3, broken
    memo.unlink()
    memo.parent.rmdir()
    memo.parent.write_text("no folder")
    assert len(digests()) == 2, "where nothing can be kept, it is read anew"


def test_a_process_writes_what_it_has_parsed_once(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"p/a.py": "", "p/b.py": "", "p/c.py": "from p import a", "p/broken.py": "x =", "p/odd.py": ""})
    (tmp_path / "p/odd.py").write_bytes(b"x = '\xff'")
    memo = tmp_path / "sources.json"
    writes: list[Path] = []
    real = memos.atomic_write
    monkeypatch.setattr(memos, "atomic_write", lambda path: writes.append(path) or real(path))

    def closures() -> None:
        graph = ImportGraph(tmp_path, ["p"], memo)
        for name in ("p.a", "p.b", "p.c"):
            graph.closure([name])

    closures()
    assert writes == [memo], "the first closure saves the modules of the others"
    closures()
    assert len(writes) == 1, "nothing is new"
    (tmp_path / "p/c.py").write_text("from p import b")
    closures()
    assert len(writes) == 2
    with pytest.raises(SyntaxError):
        ImportGraph(tmp_path, ["p"], memo).closure(["p.broken"])
