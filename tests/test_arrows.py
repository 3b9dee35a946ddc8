"""Which room may import which: downwards only, and never in a circle.

A room is a folder or a file at the top of a package. This is a test of our own and not import-linter's because the
reader of imports is there already, for code versions: it looks through names that an `__init__` passes on, where
import-linter would see an arrow to the whole room, and it needs no dependency and no second list of packages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.import_graph import ImportGraph

CORE_FLOORS = (
    ("cli",),
    ("serving",),
    ("loading", "maintenance"),
    ("stages",),
    ("exchange",),
    ("rl",),
    ("api", "evaluation", "training"),
    ("optim", "rollout", "tracking"),
    ("model",),
    ("text",),
    ("tasks",),
    ("data",),
    ("checkpointing", "sharding", "torchrun"),
    ("filesystem", "runtime"),
    ("artifacts",),
    ("sandbox",),
    ("agent", "config"),
    ("arguments", "durations", "plain_text", "settings"),
    ("conversation", "errors"),
)
PIPELINE_FLOORS = (
    ("cli", "web"),
    ("demo", "launching"),
    ("definitions",),
    ("upkeep",),
    ("schedules", "sensors", "sweeps"),
    ("runs",),
    ("assets",),
    ("jobs",),
    ("checks",),
    ("renting",),
    ("hosts",),
    ("experiments",),
    ("beats",),
    ("database", "events", "instance", "memory", "resources", "workers"),
    ("_compat", "home", "locks", "tags"),
)
"""The rooms of each package, from the roof down. A room imports those of lower floors, none of its own or a higher."""
HEIGHT = {
    f"{package}.{room}": height
    for height, (package, floor) in enumerate(
        [("aquarat_core", floor) for floor in reversed(CORE_FLOORS)]
        + [("aquarat_pipeline", floor) for floor in reversed(PIPELINE_FLOORS)]
    )
    for room in floor
}


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    return ImportGraph(REPO_ROOT, ("aquarat_core", "aquarat_pipeline"), texts=False)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def circles(arrows: Mapping[str, Iterable[str]]) -> set[tuple[str, ...]]:
    """Groups of nodes that reach each other, by Tarjan's algorithm."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: set[tuple[str, ...]] = set()

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in arrows.get(node, ()):
            if other not in number:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == number[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.add(tuple(sorted(stack[at:])))
            del stack[at:]

    for node in arrows:
        if node not in number:
            visit(node)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": "b", "b": "ce", "c": "a", "d": "a", "e": "f", "f": "e", "g": ""}) == {
        ("a", "b", "c"),
        ("e", "f"),
    }


def test_every_room_has_a_floor(graph: ImportGraph) -> None:
    rooms = {room_of(module) for module in graph.all() if "." in module}
    assert rooms == set(HEIGHT), "put a new room on its floor in this file, and take away one that has gone"


def test_the_map_in_the_docs_has_these_floors() -> None:
    text = (REPO_ROOT / "docs" / "architecture.md").read_text()
    drawn = text.partition("## Map of the rooms")[2].partition("\n|")[0]
    lines = [line.partition(" ──")[0].split() for line in drawn.splitlines() if line.startswith("      ")]
    packages = {"aquarat_pipeline", "aquarat_core", "rust"}
    starts = [i for i, line in enumerate(lines) if line[0] in packages]
    floors = [tuple(name for name in line if name not in packages) for line in lines]
    pipeline, core = floors[starts[0] : starts[1]], floors[starts[1] : starts[2]]
    assert [set(floor) for floor in pipeline] == [set(floor) for floor in PIPELINE_FLOORS]
    assert [set(floor) for floor in core] == [set(floor) for floor in CORE_FLOORS]


def test_arrows_point_down(graph: ImportGraph) -> None:
    up: list[str] = []
    for module in graph.all():
        for other in graph.imports(module):
            here, there = room_of(module), room_of(other)
            if "." in other and here != there and HEIGHT[there] >= HEIGHT[here]:
                up.append(f"{module} imports {other}")
    assert not up, "\n".join(["imports that go up:", *up])


def test_no_modules_import_each_other_in_a_circle(graph: ImportGraph) -> None:
    """A package runs before what is in it, so that a module is not said to import the packages around it."""
    arrows = {
        module: [other for other in graph.imports(module) if not module.startswith(f"{other}.")]
        for module in graph.all()
    }
    assert circles(arrows) == set()


def test_core_names_nothing_of_the_pipeline() -> None:
    """Not even as a text: entry points say what else there is."""
    core = REPO_ROOT / "aquarat_core"
    naming = [path for path in core.rglob("*") if path.is_file() and b"aquarat_pipeline" in path.read_bytes()]
    assert [str(path.relative_to(core)) for path in naming if "__pycache__" not in Path(path).parts] == []
