"""docs/new_dataset.md, followed to the letter: its commands, its profiles, its module, on data that are not ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import TaskDefinition, load_profile
from aquarat_core.stages.registry import STAGES
from aquarat_core.tasks.own_code import own_task

MADE = tuple(name for name in STAGES if name not in ("aqua_dataset", "eval_bundle"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "new_dataset.md").read_text()


@pytest.fixture(scope="module")
def followed(root: Path, page: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder in which the page's commands were run, all but the trainings that take minutes."""
    folder = tmp_path_factory.mktemp("newcomer")
    home = folder / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text((root / "dagster_home" / "dagster.yaml").read_text())
    for name in ("run", "docs"):
        (folder / name).symlink_to(root / name)
    environment = os.environ | {
        "DAGSTER_HOME": str(home), "AQUARAT_STORE": f"file://{folder}/store", "AQUARAT_CACHE": str(folder / "cache"),
    }  # fmt: skip
    environment.pop("AQUARAT_PROFILE", None)
    commands = [line for block in blocks(page, "sh") for line in block.splitlines()]
    quick = [line for line in commands if "make_rows" in line or "rehearsal" in line]
    assert len(quick) == 3, "the page makes rows and rehearses with both data sets"
    for command in quick:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-4000:]}"
    return folder, environment


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("experiment", "split", "kept", "form"), [("", "test", 800, "= D\n"), ("tank_rehearsal/", "test", 800, '"#### "')]
)
def test_every_stage_is_made_of_rows_that_are_not_ours(
    followed: tuple[Path, dict[str, str]], experiment: str, split: str, kept: int, form: str
) -> None:
    _, environment = followed
    store = ArtifactStore.open(environment["AQUARAT_STORE"])
    found = {name: store.latest(f"{experiment}{name}") for name in MADE}
    assert all(artifact is not None and artifact.is_complete() for artifact in found.values())
    assert store.latest(f"{experiment}aqua_dataset") is None
    report = found["rl_eval_report"]
    assert report is not None
    parents = {parent.asset for parent in report.manifest.parents}
    assert parents == {"rl_checkpoint", "chat_datasets", "sft_eval_report"}
    described: dict[str, Any] = json.loads((report.path("report.json")).read_text())
    name = described["evaluation"]["task"]
    assert described["evaluation"]["questions"] == f"the task {name}"
    rows = found["chat_datasets"]
    assert rows is not None and rows.manifest.metrics[f"{name}_{split}"] == kept
    assert form in report.record("report.md").read_text().replace("\\", "") or form in str(described)


def test_the_profiles_of_the_page_load(page: str, root: Path, tmp_path: Path) -> None:
    """The one it writes is the one it shows; the others are parts of a profile."""
    subprocess.run(
        [sys.executable, root / "docs" / "examples" / "make_rows.py", tmp_path, "200"], check=True, env=os.environ
    )
    (tmp_path / "estimate.py").write_text(blocks(page, "python")[0])
    (tmp_path / "train.jsonl").write_text('{"question": "How many?", "size": 7}\n')
    shown, module, several = map(yaml.safe_load, blocks(page, "yaml"))
    assert shown == yaml.safe_load((tmp_path / "shop" / "shop.yaml").read_text())
    for n, fields in enumerate((module, several)):
        file = tmp_path / f"profile{n}.yaml"
        file.write_text(yaml.safe_dump({"extends": "demo", **fields}))
        load_profile(str(file))


def test_the_module_of_the_page_is_a_task(page: str) -> None:
    (code,) = blocks(page, "python")
    task = own_task("estimate", TaskDefinition(module="estimate.py", code=code), {})
    example = task.example({"question": "How many?", "size": 40}, "row")
    assert task.grade(example, "40", True).correct
    assert task.grade(example, "50", True).reward == 0.75
    assert all(
        task.grade(example, attempt.text, attempt.ended).reward == 0 for attempt in task.worthless(example).values()
    )
