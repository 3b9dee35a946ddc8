"""What other packages add to the command line, and what it says where they are missing."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from aquarat_core.cli import entry_points, main
from aquarat_core.cli.commands import Command

Points = list[EntryPoint]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    """The entry points that are installed: none, until a test adds some."""
    found: Points = []
    monkeypatch.setattr(metadata, "entry_points", lambda group: [p for p in found if p.group == group])
    return found


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    commands.add_parser("greet").set_defaults(run=lambda _: "hello")


greet = [Command("greet", "greet", "polite", __name__)]


def five(days: int) -> set[str]:
    return {str(days) * 64}


def test_what_the_project_names_is_registered_and_there(root: Path) -> None:
    named = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    assert named.keys() == {entry_points.COMMANDS, entry_points.GARBAGE_ROOTS, "fsspec.specs"}
    for group, members in named.items():
        installed = {p.name: p for p in metadata.entry_points(group=group) if p.dist and p.dist.name == "aquarat"}
        assert {name: p.value for name, p in installed.items()} == members, "the environment is old: ./run setup"
        for point in installed.values():
            found = point.load()
            assert callable(found) or all(importlib.import_module(command.module).add_commands for command in found)


def test_another_package_adds_a_command(points: Points, capsys: pytest.CaptureFixture[str]) -> None:
    points.append(EntryPoint("greet", f"{__name__}:greet", entry_points.COMMANDS))
    assert main(["greet"]) == 0
    assert capsys.readouterr() == ("hello\n", "")
    assert main(["--help"]) == 0
    assert "\npolite     greet        greet\n" in capsys.readouterr().out


def test_where_there_are_none_the_way_out_is_said(points: Points, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles"]) == 0
    with pytest.raises(SystemExit, match="2"):
        main(["launch", "rl_checkpoint"])
    said = capsys.readouterr().err
    assert said.startswith("aquarat: there is no command 'launch'; ")
    assert said.endswith("an environment older than the sources: ./run setup\n")
    points.append(EntryPoint("greet", f"{__name__}:greet", entry_points.COMMANDS))
    with pytest.raises(SystemExit, match="2"):
        main(["lunch"])
    assert "./run setup" not in capsys.readouterr().err, "here the word is wrong and not the environment"


def test_one_that_cannot_be_used_is_named_and_the_others_are_there(
    points: Points, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points += [
        EntryPoint("a", "no_such_package.cli:COMMANDS", entry_points.COMMANDS),
        EntryPoint("b", f"{__name__}:nothing", entry_points.COMMANDS),
        EntryPoint("c", f"{__name__}:greet", entry_points.COMMANDS),
    ]
    assert main(["greet"]) == 0
    assert capsys.readouterr() == ("hello\n", ""), "who does not miss it need not know"
    with pytest.raises(SystemExit, match="2"):
        main(["launch"])
    said = capsys.readouterr().err.splitlines()
    assert said[-3].startswith("aquarat: there is no command 'launch'; ")
    assert said[-2] == "a of a package cannot be used: No module named 'no_such_package'"
    assert said[-1].startswith("b of a package cannot be used: ")


def test_gc_asks_everybody_who_needs_artifacts(
    points: Points, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"file://{tmp_path}"
    assert main(["store", "gc", "--store", store]) == 2
    said = capsys.readouterr().err
    assert "gc must know which artifacts Dagster's runs need: run it on the control host" in said
    points.append(EntryPoint("x", f"{__name__}:five", entry_points.GARBAGE_ROOTS))
    assert main(["store", "gc", "--store", store, "--retention", "5"]) == 0
    capsys.readouterr()
    points.append(EntryPoint("y", "no_such_package:needed", entry_points.GARBAGE_ROOTS))
    assert main(["store", "gc", "--store", store]) == 2, "what one of them needs is not known"
    assert "No module named 'no_such_package'" in capsys.readouterr().err
    assert main(["store", "gc", "--store", store, "--without-dagster"]) == 0


def test_without_dagster_the_other_commands_work_and_gc_says_what_it_lacks(tmp_path: Path) -> None:
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dagster":
            raise ModuleNotFoundError("No module named 'dagster'", name="dagster")
sys.meta_path.insert(0, Refuse())
from aquarat_core.cli import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", script]
    listed = subprocess.run([*command, "store", "ls", "--store", f"file://{tmp_path}"], capture_output=True, text=True)
    assert (listed.returncode, listed.stderr) == (0, "")
    refused = subprocess.run([*command, "store", "gc", "--store", f"file://{tmp_path}"], capture_output=True, text=True)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "add --without-dagster (dagster of aquarat cannot be used: No module named 'dagster')" in refused.stderr
