"""`aquarat --help`, the choice of a command, and what all commands have in common."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from aquarat_core.cli import build_parser, command_table, main
from aquarat_core.cli.commands import GROUPS

TABLE = command_table([])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_manual_fits_one_screen_and_names_every_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    listed = [line[11:].split()[0] for line in lines if line[24:25].strip() and line[11:24].strip() in TABLE]
    assert sorted(listed) == sorted(TABLE)
    groups = [line.split()[0] for line in lines if line[:1].strip() and line[11:24].strip() in TABLE]
    assert groups == list(GROUPS)


def test_the_manual_loads_nothing_heavy() -> None:
    code = (
        "import sys; from aquarat_core.cli import main; main(['--help'])\n"
        "print(sorted({'dagster', 'numpy', 'pydantic', 'torch', 'yaml'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("command", TABLE)
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: aquarat {command} ")
    assert shown.partition("\n\n")[2].partition("\n")[0][0].isupper(), "a sentence says what it does"


@pytest.mark.parametrize("command", TABLE)
def test_every_command_has_an_example_that_can_be_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = TABLE[command].example
    program, *arguments = shlex.split(example.removeprefix("source <(").removesuffix(")"))
    assert program == "aquarat" and build_parser(TABLE, chosen=command).parse_args(arguments).run
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "\n\nExample: aquarat " in (shown := capsys.readouterr().out) or len(shown.strip().split("\n\n")) > 3


def test_only_the_chosen_command_has_its_arguments() -> None:
    parser = build_parser(TABLE, chosen="profiles")
    assert parser.parse_args(["profiles", "--json"]).json
    with pytest.raises(SystemExit):
        parser.parse_args(["hosts", "list"])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["lanch"], "aquarat: there is no command 'lanch'; did you mean 'launch'?\n"),
        (["xyzzy"], "aquarat: there is no command 'xyzzy'; `aquarat --help` lists them.\n"),
        (["store", "lss"], "did you mean 'ls'?\n"),
        (["hosts", "docter"], "did you mean 'doctor'?\n"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_nearest(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(typed)
    assert capsys.readouterr().err.endswith(said)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("aquarat ")
