"""AQuA is one task of many: nothing outside its folder imports it or speaks of it, but for the places named here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aquarat_core.config import load_profile
from aquarat_core.errors import DataError
from aquarat_core.stages.code_version import sources
from aquarat_core.stages.registry import STAGES
from aquarat_core.tasks.registry import DATASETS, TASKS, load_task

PACKAGE = "aquarat_core.tasks.aqua"
FOLDER = "aquarat_core/tasks/aqua"
MAY_IMPORT = {"aquarat_core/stages/aqua_dataset.py"}
"""Modules that import from the folder: the stage that makes its data set."""
MAY_NAME = {"aquarat_core/tasks/registry.py"}
"""Modules in which a text names a module of the folder: the registry, which imports it when the task is asked for."""
MAY_SAY = {
    *MAY_IMPORT,
    *MAY_NAME,
    "aquarat_core/stages/registry.py",  # the stage's description
    "aquarat_core/config/__init__.py", "aquarat_core/config/data.py",  # the stage's section
    "aquarat_core/config/evaluation.py",  # a task of ChatCORE
    "aquarat_core/cli/commands.py",  # an example
    "aquarat_pipeline/checks/data.py",  # what is published of it, for the checks of its asset
    "aquarat_core/config/profile.py", "aquarat_core/config/tasks.py", "aquarat_core/config/task_use.py",  # its name
}  # fmt: skip
NOT_THE_TASK = re.compile(r"aquarat|aqua_dataset|load_task\(\"aqua\"\)", re.IGNORECASE)
"""The project, the asset, and a stage that asks for the task by its name."""


def modules(root: Path) -> Iterator[tuple[str, str]]:
    """Path and text of every module outside the folder."""
    for package in ("aquarat_core", "aquarat_pipeline"):
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(f"{FOLDER}/"):
                yield name, path.read_text()


def imported(text: str) -> Iterator[str]:
    """Dotted names that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def named(text: str) -> Iterator[str]:
    """Texts of a module that are dotted names of the folder's modules."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PACKAGE):
            yield node.value


def test_nothing_imports_the_task_but_its_own_stage(root: Path) -> None:
    importing = {name for name, text in modules(root) if any(x.startswith(PACKAGE) for x in imported(text))}
    assert importing == MAY_IMPORT
    assert {name for name, text in modules(root) if any(named(text))} == MAY_NAME


def test_nothing_speaks_of_the_task_but_what_configures_it(root: Path) -> None:
    saying = {name for name, text in modules(root) if re.search("aqua", NOT_THE_TASK.sub("", text), re.IGNORECASE)}
    assert saying == MAY_SAY
    assert {name for name, text in modules(root) if re.search(r"\bLETTERS\b", text)} == MAY_IMPORT


def test_the_rooms_that_train_and_measure_load_no_task() -> None:
    rooms = (
        "rl.trainer, rl.preflight, rl.probes, evaluation.report, evaluation.protocols, training.samples, tasks.mixture"
    )
    code = f"import sys, {', '.join(f'aquarat_core.{room}' for room in rooms.split(', '))}\n"
    code += f"print([m for m in sys.modules if m.startswith({PACKAGE!r}) or m == 'aquarat_core.tasks.gsm8k'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_every_task_of_the_registry_is_there_under_its_name() -> None:
    assert {load_task(name).name for name in TASKS} == set(TASKS)
    assert set(DATASETS.values()) <= set(TASKS)


def test_a_stage_is_made_of_the_tasks_that_it_uses() -> None:
    demo = load_profile("demo")

    def made_of(stage: str, module: str) -> bool:
        return module in sources().modules(STAGES[stage], STAGES[stage].config(demo))

    users = {name for name in STAGES if made_of(name, f"{PACKAGE}.task")}
    asking = {name for name, row in STAGES.items() if "aqua_dataset" in row.needs(row.config(demo))}
    assert users == asking | {"pipeline_report", "model_release"}
    assert {name for name in STAGES if made_of(name, f"{PACKAGE}.cleaning")} == {"aqua_dataset"}
    assert {name for name in STAGES if made_of(name, "aquarat_core.tasks.gsm8k")} == {"chat_datasets"}


def test_a_task_that_is_not_there_says_which_are() -> None:
    with pytest.raises(DataError, match=r"no task 'gsmk8': did you mean 'gsm8k'\? the tasks are aqua, arc, .*gsm8k"):
        load_task("gsmk8")
