"""What is recorded of libraries, hardware and the checkout; and where things are kept by default."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

from aquarat_core import settings
from aquarat_core.artifacts import git_state, hardware, libraries
from aquarat_core.artifacts.environment import PRICE

from .conftest import ROOT


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_tells_commit_and_changes(tmp_path: Path) -> None:
    assert git_state(tmp_path) == (None, None)
    assert git_state(tmp_path / "nowhere") == (None, None)
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == (None, None)
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path) == (commit, True)
    (tmp_path / "installed").mkdir()
    assert git_state(tmp_path / "installed") == (None, None)


def test_libraries_are_the_installed_versions() -> None:
    found = libraries()
    assert found["python"] == platform.python_version()
    assert found["pydantic"] == pydantic.VERSION
    assert list(found)[1:] == sorted(list(found)[1:])


def test_hardware_is_this_machine() -> None:
    found = hardware()
    assert found["cores"] == len(os.sched_getaffinity(0))
    kilobytes = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert found["memory_bytes"] == pytest.approx(int(kilobytes.split()[1]) * 1024, rel=0.01)
    assert found["cpu"]


def test_the_price_of_the_hosts_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "price_per_hour" not in hardware()
    monkeypatch.setenv(PRICE, "23.92")
    assert hardware()["price_per_hour"] == 23.92


def test_importing_artifacts_is_light() -> None:
    code = "import sys, aquarat_core.artifacts; print([m for m in ('torch', 'google.cloud', 'fsspec', 'datasets')"
    result = subprocess.run(
        [sys.executable, "-c", f"{code} if m in sys.modules])"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUARAT_STORE", "gs://b/p")
    monkeypatch.setenv("AQUARAT_CACHE", "/somewhere")
    assert settings.store_uri() == "gs://b/p"
    assert settings.cache_dir() == Path("/somewhere")
    monkeypatch.setenv("AQUARAT_STORE", "")
    monkeypatch.setenv("AQUARAT_CACHE", "")
    assert settings.store_uri() == f"file://{ROOT}/dagster_home/store"
    assert settings.cache_dir() == Path.home() / ".cache" / "aquarat"
