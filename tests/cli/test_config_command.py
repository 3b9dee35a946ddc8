"""`aquarat config`: what is in a profile and where it comes from, differences, and checks of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.cli import main
from aquarat_core.config import PROFILES_DIR, load_profile

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code and output of `aquarat config ...`."""

    def run(*arguments: object) -> tuple[int, str]:
        code = main(["config", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out + err

    return run


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: demo\ndescription: Mine.\nrl_checkpoint: {steps: 120, optim: {lr_scale: 0.3}}\n")
    return path


def test_every_value_says_where_it_comes_from(run: Run, mine: Path) -> None:
    code, out = run("show", mine, "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["rl_checkpoint.steps"] == {"value": 120, "from": str(mine)}
    assert facts["rl_checkpoint.optim.lr_scale"] == {"value": 0.3, "from": str(mine)}
    assert facts["rl_checkpoint.max_new_tokens"] == {"value": 48, "from": "demo"}
    assert facts["rl_checkpoint.group_size"]["from"] == "default"
    assert facts["name"] == {"value": "mine", "from": str(mine)}
    _, given = run("show", mine, "--section", "rl_checkpoint", "--given")
    lines = [line.split() for line in given.splitlines()[1:]]
    assert ["rl_checkpoint.steps", str(mine), "120"] in lines
    assert {line[1] for line in lines} == {str(mine), "demo"}


def test_the_whole_file_is_the_same_profile(run: Run, mine: Path, tmp_path: Path) -> None:
    _, text = run("show", mine, "--yaml")
    whole = tmp_path / "whole.yaml"
    whole.write_text(text)
    assert load_profile(str(whole)).sha256 == load_profile(str(mine)).sha256


def test_an_unknown_section_is_answered_with_the_nearest(run: Run) -> None:
    code, text = run("show", "demo", "--section", "rl_chekpoint")
    assert code == 2 and "did you mean 'rl_checkpoint'?" in text


def test_differences_of_profiles_and_of_an_artifact(run: Run, mine: Path, tmp_path: Path, store_uri: str) -> None:
    _, out = run("diff", "demo", mine, "--json")
    changed = {d["field"]: (d["left"], d["right"]) for d in json.loads(out)}
    assert changed.keys() == {"name", "description", "rl_checkpoint.steps", "rl_checkpoint.optim.lr_scale"}
    assert changed["rl_checkpoint.steps"] == (90, 120)
    config = load_profile(str(mine)).section("rl_checkpoint").model_dump(mode="json")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a").write_text("a")
    made = ArtifactStore.open(store_uri).publish(
        asset="rl_checkpoint", kind="checkpoint", directory=folder, config=config, profile="mine", run_id="r",
        parents=[], metrics={}, seeds={}, code=CodeVersion(version="1" * 64),
    )  # fmt: skip
    _, text = run("diff", "rl_checkpoint", mine)
    assert text == f"rl_checkpoint {made.sha256[:12]} and {mine} have the same values\n"
    _, out = run("diff", "rl_checkpoint", "demo", "--json")
    assert {d["field"]: d["right"] for d in json.loads(out)}["rl_checkpoint.steps"] == 90


def test_a_file_is_valid_or_says_why_not(run: Run, mine: Path, tmp_path: Path) -> None:
    code, text = run("validate", mine)
    assert code == 0 and f"{mine} is valid: profile mine" in text
    bad = tmp_path / "bad.yaml"
    bad.write_text("extends: demo\nrl_checkpoint: {stepz: 3}\n")
    code, text = run("validate", bad)
    assert code == 1 and "rl_checkpoint.stepz: unknown field; did you mean steps?" in text
    assert json.loads(run("validate", bad, "--json")[1])["valid"] is False
    assert run("validate", tmp_path / "none.yaml")[0] == 2
    code, text = run("validate", "tiny")
    assert code == 0 and "tiny is valid: profile tiny" in text


def test_a_long_value_does_not_push_the_others_away(run: Run) -> None:
    _, text = run("diff", "demo", "tiny")
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert len(lines["chat_datasets.sources"]) > 500, "in a pipe nothing is cut"
    assert len(lines["rl_checkpoint.steps"]) < 120
    steps = [str(load_profile(name).rl_checkpoint.steps) for name in ("demo", "tiny")]
    assert lines["rl_checkpoint.steps"].split()[1:] == steps


def test_the_schema_accepts_what_loads_and_refuses_what_does_not(run: Run, mine: Path) -> None:
    schema = json.loads(run("schema")[1])
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in (*PROFILES_DIR.glob("*.yaml"), mine):
        assert not [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))], path
    for wrong in ({"rl_checkpoint": {"stepz": 3}}, {"rl_checkpoint": {"steps": 0}}, {"extends": 1}, {"nothing": {}}):
        assert list(validator.iter_errors(wrong)), wrong
