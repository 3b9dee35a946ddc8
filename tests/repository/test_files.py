"""The files that describe the repository to others agree with the project and with each other."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import aquarat_core
from aquarat_core.artifacts import git_state
from aquarat_core.cli import main
from aquarat_pipeline.hosts import prepare

WORKFLOWS = ("check.yml", "test.yml", "wheels.yml")
REGISTRIES = (
    "pypi.org", "pythonhosted.org", "npmjs.org", "crates.io", "docker.io", "ghcr.io", "quay.io", "mcr.microsoft.com",
    "conda.anaconda.org",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


# --- version and metadata -------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere(root: Path, project: dict[str, Any]) -> None:
    def toml(path: str) -> dict[str, Any]:
        return tomllib.loads((root / path).read_text())

    def locked(path: str) -> str:
        return next(crate["version"] for crate in toml(path)["package"] if crate["name"] == "rustbpe_py")

    changes = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", (root / "CHANGELOG.md").read_text(), re.M)
    assert {
        "rust/Cargo.toml": toml("rust/Cargo.toml")["package"]["version"],
        "rust/pyproject.toml": toml("rust/pyproject.toml")["project"]["version"],
        "rust/Cargo.lock": locked("rust/Cargo.lock"),
        "CITATION.cff": yaml.safe_load((root / "CITATION.cff").read_text())["version"],
        "CHANGELOG.md": changes[0],
        "installed": importlib.metadata.version("aquarat"),
        "tokenizer installed": importlib.metadata.version("rustbpe_py"),
        "__version__": aquarat_core.__version__,
    } == dict.fromkeys(
        (
            "rust/Cargo.toml", "rust/pyproject.toml", "rust/Cargo.lock", "CITATION.cff", "CHANGELOG.md",
            "installed", "tokenizer installed", "__version__",
        ),
        project["version"],
    )  # fmt: skip
    assert changes[-1] == "0.1.0"


def test_a_package_has_no_other_attributes_made_up() -> None:
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        _ = aquarat_core.versoin  # pyright: ignore


def test_the_metadata_is_complete(root: Path, project: dict[str, Any]) -> None:
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert "Copyright (c) 2026 The aquarat authors" in (root / "LICENSE").read_text()
    assert (root / project["readme"]).is_file()
    assert project["authors"] == [{"name": "The aquarat authors"}]
    assert project["description"] and project["keywords"]
    python = {line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line}
    assert python == {"3.11", "3.12", "3.13", "3.14"}, "what ./run accepts"
    assert "Typing :: Typed" in project["classifiers"]


def test_the_version_command_names_the_commit_of_a_checkout(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit, dirty = git_state(root)
    where = f", commit {commit}" if commit else ""
    changes = " with uncommitted changes" if dirty else ""
    assert _version(capsys) == f"aquarat {aquarat_core.__version__}{where}{changes}\n"


@pytest.mark.parametrize(
    ("state", "where"), [((None, None), ""), (("3f2a", False), ", commit 3f2a")], ids=["installed", "clean"]
)
def test_the_version_command_elsewhere(
    state: tuple[str | None, bool | None],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def given(_: Path) -> tuple[str | None, bool | None]:
        return state

    monkeypatch.setattr("aquarat_core.artifacts.git_state", given)
    assert _version(capsys) == f"aquarat {aquarat_core.__version__}{where}\n"


def _version(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_wheels_say_that_they_are_typed_and_under_which_license(root: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    out.mkdir()
    for package in ("aquarat_core", "aquarat_pipeline"):
        shutil.copytree(root / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "aquarat.py"):
        shutil.copy(root / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    whole = _names(next(out.glob("*.whl")))
    assert {"aquarat_core/py.typed", "aquarat_pipeline/py.typed", "aquarat_core/profiles/demo.yaml"} <= whole
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in whole)

    scratch = tmp_path / "hosts"
    scratch.mkdir()
    hosts = _names(prepare._project_wheel(root, scratch))  # pyright: ignore[reportPrivateUsage]
    assert "aquarat_core/py.typed" in hosts
    assert not any(name.startswith("aquarat_pipeline") for name in hosts)


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


# --- continuous integration and editors -----------------------------------------------------------------------------


def _steps(root: Path, workflow: str) -> Iterator[dict[str, Any]]:
    described = yaml.safe_load((root / ".github/workflows" / workflow).read_text())
    for job in described["jobs"].values():
        assert "permissions" not in job
        yield from job["steps"]


def _commands(root: Path) -> set[str]:
    usage = subprocess.run([root / "run", "help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^  ([a-z]+)(?: |$)", usage, re.M))


def test_the_workflows_are_these(root: Path) -> None:
    assert sorted(path.name for path in (root / ".github/workflows").iterdir()) == sorted(WORKFLOWS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_what_is_there_and_may_only_read(root: Path, name: str) -> None:
    described = yaml.safe_load((root / ".github/workflows" / name).read_text())
    # YAML 1.1 reads the key `on` as true.
    assert described["name"] + ".yml" == name and described[True]
    assert described["permissions"] == {"contents": "read"}
    for step in _steps(root, name):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), "pinned to a commit"
        else:
            command, *arguments = step["run"].split()
            assert command == ".ci/run" or (command == "./run" and arguments[0] in _commands(root))
            assert (root / command).is_file()
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_wheels_are_built_with_the_locked_maturin(root: Path) -> None:
    (step,) = [s for s in _steps(root, "wheels.yml") if "maturin-action" in s.get("uses", "")]
    locked = re.search(r"^maturin==(\S+)", (root / "requirements.lock").read_text(), re.M)
    assert locked and step["with"]["maturin-version"] == f"v{locked[1]}"


def test_hooks_call_the_locked_tools(root: Path) -> None:
    checks = subprocess.run([sys.executable, root / ".ci/check.py", "--help"], capture_output=True, text=True).stdout
    described = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())
    (local,) = described["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        command, subcommand, *names = hook["entry"].split()
        assert (command, subcommand) == ("./run", "check")
        assert names and all(f" {name}" in checks for name in names)


def test_issue_forms_have_what_github_requires(root: Path) -> None:
    forms = [path for path in (root / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 2
    for form in forms:
        described = yaml.safe_load(form.read_text())
        assert described["name"] and described["description"]
        ids = [part["id"] for part in described["body"] if part["type"] != "markdown"]
        assert len(ids) == len(set(ids)) > 0


def test_no_configuration_names_a_registry(root: Path) -> None:
    files = [*(root / ".github").rglob("*.*"), *(root / ".devcontainer").iterdir(), *root.glob("*.lock")]
    files += [root / name for name in ("pyproject.toml", ".pre-commit-config.yaml", "rust/Cargo.toml")]
    for path in files:
        text = path.read_text()
        assert not [host for host in REGISTRIES if host in text], path
    container = json.loads((root / ".devcontainer/devcontainer.json").read_text())
    assert "/" not in container["image"] and container["postCreateCommand"] == "./run setup"
