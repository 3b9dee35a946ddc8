"""`./run test --fast` leaves out what is marked slow, and says what that is and how it is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = {
    "test_mixed.py": "import pytest\n@pytest.mark.slow\ndef test_one(): assert 0\ndef test_two(): ...\n",
    "test_slow.py": "import pytest\npytestmark = pytest.mark.slow\n"
    "@pytest.mark.parametrize('n', range(3))\ndef test_all(n): assert 0\n",
    "test_quick.py": "def test_three(): ...\n",
}


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py", "tests/patience.py"):
        shutil.copy(root / name, tmp_path / name)
    for name, text in TESTS.items():
        (tmp_path / "tests" / name).write_text(text)
    return tmp_path


def run(project: Path, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--color=no", "-q", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("processes", ["0", "2"])
def test_what_is_left_out_is_listed_before_the_closing_line(project: Path, processes: str) -> None:
    *_, title, mixed, slow, total, last = run(project, "--fast", "-n", processes)
    assert title.strip("= ") == "left out by --fast"
    assert (mixed.split(), slow.split()) == (["1", "tests/test_mixed.py"], ["3", "tests/test_slow.py"])
    assert total.split(maxsplit=1) == ["4", "tests marked slow, in 2 files; run them with ./run test -m slow"]
    assert "2 passed" in last and "failed" not in last


def test_without_it_all_tests_run_and_nothing_is_listed(project: Path) -> None:
    lines = run(project, "-n", "0")
    assert "4 failed, 2 passed" in lines[-1]
    assert not [line for line in lines if "left out" in line]
