"""`./run check`: all checks run, the worst decides, and the number of type errors can only fall."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def check(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, for a project in `tmp_path`."""
    spec = importlib.util.spec_from_file_location("ci_check", root / ".ci/check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ci_check", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def errors(root: Path, **files: int) -> list[dict[str, Any]]:
    """So many errors in each file, at its lines 1, 2, ...; `core__a` stands for core/a.py."""
    return [
        {
            "file": str(root / f"{name.replace('__', '/')}.py"),
            "severity": "error",
            "message": "it is wrong\nin detail",
            "range": {"start": {"line": line, "character": 4}},
        }
        for name, count in files.items()
        for line in range(count)
    ]


# --- the checks -----------------------------------------------------------------------------------------------------


def test_all_checks_run_and_the_worst_decides(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    together = threading.Barrier(3, timeout=30)

    def one(outcome: Any) -> Any:
        together.wait()
        return outcome

    checks = {
        "first": lambda: one(check.Outcome(1, "bad", "line 7")),
        "second": lambda: one(check.Outcome(2, "missing")),
        "third": lambda: one(check.Outcome(0)),
    }
    assert check.run(checks) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if " s" in line] == [
        ["first", "FAILED"], ["second", "BROKEN"], ["third", "ok"],
    ]  # fmt: skip
    assert lines[0].endswith(" s  bad") and lines[1] == "line 7"
    assert check.run({"third": lambda: check.Outcome(0)}) == 0


def test_a_missing_tool_is_named(check: ModuleType) -> None:
    outcome = check._command("no-such-tool", "check")
    assert (outcome.code, outcome.summary) == (2, "no-such-tool is missing")


def test_an_unknown_check_is_refused(root: Path) -> None:
    done = subprocess.run([sys.executable, root / ".ci/check.py", "lnit"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no check 'lnit'; there are lint, format, types, rust-format, clippy, docs" in done.stderr


def test_lint_and_format_are_ruffs_and_see_the_scripts_of_ci(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    assert check._lint().code == 0 and check._format().code == 0
    (tmp_path / ".ci/script.py").write_text("import os\nx = {  }\n")
    lint, form = check._lint(), check._format()
    assert (lint.code, form.code) == (1, 1)
    assert "F401" in lint.output and "x = {}" in form.output


# --- types ----------------------------------------------------------------------------------------------------------


def test_files_without_a_limit_are_strict(check: ModuleType, tmp_path: Path) -> None:
    outcome = check.compare(errors(tmp_path, core__a=2, core__b=1), {"core/a.py": 2})
    assert outcome.code == 1
    assert outcome.output.splitlines() == [
        "core/b.py: 1 errors, 0 are allowed", "  core/b.py:1:5: it is wrong",
    ]  # fmt: skip


def test_known_errors_are_counted(check: ModuleType, tmp_path: Path) -> None:
    outcome = check.compare(errors(tmp_path, core__a=2, core__b=1), {"core/a.py": 2, "core/b.py": 1})
    assert (outcome.code, outcome.summary) == (0, "strict; 3 known errors in 2 files")
    assert check.compare([], {}).summary == "strict"


def test_a_number_that_has_fallen_must_be_recorded(check: ModuleType, tmp_path: Path) -> None:
    limits = {"core/a.py": 2, "core/b.py": 1}
    outcome = check.compare(errors(tmp_path, core__a=1), limits)
    assert outcome.code == 1
    assert outcome.output.splitlines() == [
        "core/a.py: 1 errors, 2 on record", "core/b.py: 0 errors, 1 on record",
        "Record what has become fewer: ./run check --lower",
    ]  # fmt: skip
    path = tmp_path / "types.json"
    assert check.lower(errors(tmp_path, core__a=1), limits, path).code == 0
    assert json.loads(path.read_text()) == {"core/a.py": 1}


def test_moved_errors_are_recorded_and_more_are_not(check: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "types.json"
    limits = {"core/a.py": 2}
    assert check.lower(errors(tmp_path, other__a=2), limits, path).code == 0
    assert json.loads(path.read_text()) == {"other/a.py": 2}

    outcome = check.lower(errors(tmp_path, core__a=3), limits, path)
    assert (outcome.code, outcome.summary) == (1, "not recorded: 3 errors, 2 before")
    assert json.loads(path.read_text()) == {"other/a.py": 2}


@pytest.mark.slow
def test_types_are_checked_in_strict_mode(check: ModuleType, root: Path, tmp_path: Path) -> None:
    project = (root / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(project[project.index("[tool.basedpyright]") :])
    (tmp_path / "aquarat_pipeline").mkdir()
    package = tmp_path / "aquarat_core"
    package.mkdir()
    (package / "clean.py").write_text("def double(x: int) -> int:\n    return 2 * x\n")
    # Only strict mode minds a parameter without a type.
    (package / "loose.py").write_text("def double(x):\n    return 2 * x\n")
    assert {Path(one["file"]).name for one in check.type_errors()} == {"loose.py"}


@pytest.mark.parametrize("said", ["no JSON", '{"generalDiagnostics": [{"message": "no such folder"}]}'])
def test_types_that_could_not_be_checked_are_no_success(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    tool = tmp_path / "basedpyright"
    tool.write_text(f"#!/bin/sh\necho '{said}'\nexit 3\n")
    tool.chmod(0o755)
    (tmp_path / "types.json").write_text("{}")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(check, "LIMITS", tmp_path / "types.json")
    outcome = check._types()
    assert (outcome.code, outcome.summary) == (2, "not checked")
    assert ("no such folder" if "message" in said else "no JSON") in outcome.output


# --- CI -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("checks", "tests", "code"), [(0, 0, 0), (1, 0, 1), (2, 1, 1), (0, 5, 5)])
def test_ci_runs_the_tests_whatever_the_checks_find(
    root: Path, tmp_path: Path, checks: int, tests: int, code: int
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(root / ".ci/run", tmp_path / ".ci/run")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sshd", "ip", "chromium", "bwrap", "pg_ctlcluster"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    (tmp_path / "run").write_text(
        f'#!/bin/sh\necho "$@"\n[ "$1" = setup ] && exit 1\n[ "$1" = check ] && exit {checks}\n'
        f'echo "=== 3 passed ==="\nexit {tests}\n'
    )
    (tmp_path / "run").chmod(0o755)
    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run([tmp_path / ".ci/run", "-v"], capture_output=True, text=True, env=env)
    # Without the harness, PostgreSQL's client or Ray only their own tests are skipped.
    setups = ["setup --harness", "setup --postgres", "setup --ray"]
    assert done.stdout.splitlines() == [*setups, "check", "test --color=no -v", "=== 3 passed ==="], done.stderr
    assert done.returncode == code
