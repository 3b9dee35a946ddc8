"""Each command in the table of docs/renting.md for those who come from other launchers, against a fake provider."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from aquarat_core.cli import build_parser, command_table
from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.renting import keeping
from aquarat_pipeline.renting.clouds import hyperbolic, lambda_cloud
from aquarat_pipeline.renting.ledger import Ledger
from tests.renting.commands import RENT, said
from tests.renting.fakes.hyperbolic_api import FakeHyperbolic
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.server import KEY

TABLE = (REPO_ROOT / "docs/renting.md").read_text().partition("## What you did there, what you do here")[2]
COMMANDS = sorted({text for row in TABLE.splitlines() for text in re.findall(r"`aquarat ([^`]+)`", row)})
ARGUMENTS = """
--api-key --region --instance-type --ssh-key-name --quantity --name --repo-url --branch --repo-dir --run-script
--tmux-session --auto-start --env --inject-env --env-file-name --image-id --image-family --max-wait-minutes
--poll-seconds --skip-wait --no-user-data --print-user-data --list-types --no-deploy --gpu-count --supplier --max-price
--node-name --cluster-name --list --ssh-user --ssh-key
"""
"""Of the launchers there."""


@pytest.mark.parametrize("argument", ARGUMENTS.split())
def test_every_argument_of_the_launchers_has_its_line(argument: str) -> None:
    left = [row.split(" | ")[0] for row in TABLE.splitlines() if row.startswith("| ")]
    assert any(re.search(rf"{argument}(?![\w-])", cell) for cell in left)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_table_does_what_it_says(
    command: str,
    unkept: Ledger,
    fake: FakeLambda,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    home: Path,
) -> None:
    argv = shlex.split(command)
    if argv[0] != "hosts":
        build_parser(command_table([]), chosen=argv[0]).parse_args(argv)
        return
    monkeypatch.delenv("DAGSTER_HOME")
    with FakeHyperbolic(fake.clock, every=0.5).serve() as other:
        monkeypatch.setattr(lambda_cloud, "ADDRESS", fake.address)
        monkeypatch.setattr(hyperbolic, "ADDRESS", other.address)
        monkeypatch.setenv("HYPERBOLIC_API_KEY", KEY)
        if argv[1] != "offers":
            monkeypatch.setenv("DAGSTER_HOME", str(home))
        if argv[1] == "rent":
            text = said(capsys, argv, 0)
            assert "at most" in text and "nothing was ordered (--dry-run)" in text
        elif argv[1] == "offers":
            assert "$/hour" in said(capsys, argv, 0)
        else:
            said(capsys, [*RENT, "-y", "--no-wait"], 0)
            monkeypatch.setattr(keeping, "is_alive", lambda _: True)
            waits = ["--no-wait"] if argv[1] == "terminate" else []
            assert said(capsys, [*argv, *waits], 0)
        assert other.complaints == []
    assert len(COMMANDS) >= 10
