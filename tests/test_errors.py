"""Which errors are the user's: by their classes, on the command line, and from a host's agent."""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import aquarat_core.cli as cli
from aquarat_core.agent import main as agent
from aquarat_pipeline.hosts import transports
from aquarat_pipeline.hosts.host import Host
from tests.failures import FIXED_BY_USER, KINDS, NAMES

NOT_THE_USERS: set[str] = set()
"""Public errors that are a `ValueError` and not the user's; give each a reason."""


def bases(root: Path) -> dict[str, list[str]]:
    """The bases of every class of the packages, by bare names."""
    found: dict[str, list[str]] = {}
    for path in sorted(p for package in ("aquarat_core", "aquarat_pipeline") for p in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                named = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                found[node.name] = [base for base in named if base != node.name]
    return found


def derives(name: str, of: str, known: dict[str, list[str]]) -> bool:
    return name == of or any(derives(base, of, known) for base in known.get(name, ()))


def test_every_public_value_error_is_the_users(root: Path) -> None:
    known = bases(root)
    errors = {name for name in known if derives(name, "ValueError", known) and not name.startswith("_")}
    assert {"UserError", "ConfigError", "StoreError", "RecordError", "ExperimentError"} <= errors
    assert {name for name in errors if not derives(name, "UserError", known)} == NOT_THE_USERS


def test_the_ground_floor_imports_nothing(root: Path) -> None:
    tree = ast.parse((root / "aquarat_core" / "errors.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raises, found, said = KINDS[kind]

    def parser(*_: object) -> argparse.ArgumentParser:
        made = argparse.ArgumentParser()
        made.add_argument("command")
        made.set_defaults(run=lambda _: raises(), json=True)
        return made

    monkeypatch.setattr(cli, "build_parser", parser)
    if kind not in FIXED_BY_USER:
        with pytest.raises(found, match=said):  # and so Python shows its traceback and ends with 1
            cli.main(["x"])
        return
    assert cli.main(["x"]) == 2
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"error": said}, f"aquarat: {said}\n")


def test_the_command_ends_with_1_and_a_traceback_for_a_fault(root: Path) -> None:
    code = (
        "import sys, argparse, aquarat_core.cli as cli; from tests.failures import KINDS\n"
        "cli.build_parser = lambda *_: argparse.ArgumentParser()\n"
        "argparse.ArgumentParser.parse_args = lambda *_: argparse.Namespace(run=lambda _: KINDS[sys.argv[1]][0]())\n"
        "sys.exit(cli.main(['x']))"
    )
    ended = {
        kind: subprocess.run([sys.executable, "-c", code, kind], cwd=root, capture_output=True, text=True)
        for kind in ("child", "shapes")
    }
    assert {kind: done.returncode for kind, done in ended.items()} == {"child": 2, "shapes": 1}
    assert {kind: "Traceback" in done.stderr for kind, done in ended.items()} == {"child": False, "shapes": True}


def test_text_that_is_not_unicode_is_the_users_to_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    from aquarat_core.cli.generate import _text
    from aquarat_core.errors import UsageError

    with pytest.raises(UsageError, match="not UTF-8"):
        _text("caf\udce9")  # how Python passes an argument that is Latin-1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("café".encode("latin-1")), encoding="utf-8"))
    with pytest.raises(UsageError, match="not UTF-8"):
        _text("-")


class TestAgent:
    """An agent's answer to the control host, which tries another host whatever the agent failed by."""

    @pytest.fixture
    def call(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., str]:
        def call(fail: Callable[[], None], given: str = "{}") -> str:
            monkeypatch.setitem(agent.COMMANDS, "status", lambda *_: fail())
            monkeypatch.setattr(sys, "stdin", io.StringIO(given))
            code = agent.main("status", str(tmp_path))
            done = subprocess.CompletedProcess([], code, *(text.encode() for text in capsys.readouterr()))
            assert code == 1
            with pytest.raises(transports.HostError) as e:
                transports._reply(Host(name="here", transport="local", root=str(tmp_path)), done)
            return str(e.value)

        return call

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_fault_comes_with_its_traceback(self, call: Callable[..., str], kind: str) -> None:
        said = call(KINDS[kind][0])
        assert said.startswith(f"the agent on here: {NAMES[kind]}: ") and KINDS[kind][2] in said
        assert "Traceback" in said and "tests/failures.py" in said

    def test_the_machines_fault_is_one_line(self, call: Callable[..., str]) -> None:
        def full() -> None:
            raise OSError(28, "No space left on device")

        assert call(full) == "the agent on here: OSError: [Errno 28] No space left on device"

    def test_a_question_that_is_no_json_is_answered(self, call: Callable[..., str]) -> None:
        assert call(lambda: None, "{").startswith("the agent on here: JSONDecodeError: ")


def test_a_tokenizer_that_cannot_be_trained_is_the_users_to_fix() -> None:
    from aquarat_core.config import TokenizerConfig
    from aquarat_core.text.tokenizer import TokenizerError, train_tokenizer

    with pytest.raises(TokenizerError, match="there is no text to train on"):
        train_tokenizer([""], TokenizerConfig(vocab_size=300))
    with pytest.raises(TokenizerError, match=r"no tokenizer can be trained: .*pattern"):
        train_tokenizer(["text"], TokenizerConfig(vocab_size=300, pattern="("))


def test_ranks_that_do_not_meet_are_no_mistake_of_the_users() -> None:
    from aquarat_core.errors import UserError
    from aquarat_core.runtime.distributed import StartError

    assert not issubclass(StartError, UserError | ValueError)
