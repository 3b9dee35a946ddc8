"""What a person reads in the terminal: of `dagster asset materialize` and of `aquarat materialize`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.pipeline.terminal import Shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DAGSTER = ("dagster", "asset", "materialize", "--select")
OURS = ("aquarat_core.cli", "materialize")


@pytest.fixture
def shell(root: Path, tmp_path: Path) -> Shell:
    return Shell(root, tmp_path)


BEFORE = re.compile(r"[\d:]{8} (hosts|store|disk of [^:]*|downloads|time): ")
"""How the lines begin that say what a run needs, before its first stage."""


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not BEFORE.match(line)]


def test_a_result_is_a_line_with_its_figure_and_place(shell: Shell) -> None:
    shell.orders["aqua_dataset"] = {"metrics": {"rows_train": 1234, "seconds": 4.2}}
    out = shell.run(*DAGSTER, "aqua_dataset")
    assert out.returncode == 0, out.stderr
    (made,) = [line for line in lines(out.stderr) if "made" in line]
    assert BEFORE.match(out.stderr) and " - dagster - INFO" not in out.stderr
    assert "aqua_dataset: made, 1,234 training questions, in 4 s, file://" in made and "/manifests/" in made
    assert "[pipes]" not in out.stderr


@pytest.mark.parametrize(
    ("asset", "env", "expected"),
    [
        ("aqua_dataset", {"AQUARAT_STORE": "file:///proc/nowhere"}, "store file:///proc/nowhere cannot be used"),
        ("rl_checkpoint", {}, "rl_checkpoint needs sft_checkpoint, which has not been materialized"),
        ("aqua_dataset", {"TOY_AQUA_DATASET": '{"user_error": "mend this"}'}, "aqua_dataset: mend this"),
        ("aqua_dataset", {"TOY_AQUA_DATASET": '{"bug": "a bug"}'}, "aqua_dataset: RuntimeError: a bug"),
    ],
)
def test_a_mistake_is_a_sentence_without_a_trace(shell: Shell, asset: str, env: dict[str, str], expected: str) -> None:
    out = shell.run(*DAGSTER, asset, **env)
    assert out.returncode == 1
    assert expected in out.stderr
    assert "Stack Trace" not in out.stderr and 'File "' not in out.stderr
    assert "Not executing" not in out.stderr
    assert len(lines(out.stderr)) <= 5, out.stderr


def test_ctrl_c_says_what_is_kept_and_nothing_else(shell: Shell) -> None:
    out = shell.interrupted("aqua_dataset", *DAGSTER, "aqua_dataset")
    assert out.returncode == 1
    assert "aqua_dataset: stopped. Run it again: it continues from" in out.stderr
    assert "Stack Trace" not in out.stderr and "Traceback" not in out.stderr and "[pipes]" not in out.stderr
    assert len(lines(out.stderr)) <= 4, out.stderr
    assert [run.status.value for run in shell.runs()] == ["CANCELED"]


def test_aquarat_materialize_shows_the_result_and_leaves_what_is_fresh(shell: Shell) -> None:
    shell.orders["aqua_dataset"] = {"metrics": {"rows_train": 1234}}
    out = shell.run(*OURS, "aqua_dataset", "chat_datasets")
    assert out.returncode == 0, out.stderr
    assert "1,234 training questions" in out.stdout
    assert lines(out.stdout)[-1].startswith(f"chat_datasets: file://{shell.directory}/store/manifests/")
    assert out.stderr.splitlines()[-1] == "  what it was made from: aquarat lineage chat_datasets"
    (run,) = shell.runs()
    assert run.job_name == "__ASSET_JOB" and run.remote_job_origin is not None

    out = shell.run(*OURS, "tokenizer", "--with-parents", "--json")
    assert out.returncode == 0, out.stderr
    fresh = {name: facts["fresh"] for name, facts in json.loads(out.stdout).items()}
    assert fresh == {"aqua_dataset": True, "chat_datasets": True, "pretrain_text": False, "tokenizer": False}
    assert "aqua_dataset      fresh: made just now" in out.stderr

    assert shell.run(*OURS, "aqua_dataset").returncode == 0
    assert len(shell.runs()) == 2, "all was fresh, so nothing was run"
    assert shell.run(*OURS, "aqua_dataset", "--again").returncode == 0
    assert len(shell.runs()) == 3


def test_aquarat_materialize_answers_mistakes_in_one_line(shell: Shell) -> None:
    out = shell.run(*OURS, "nope")
    assert out.returncode == 2
    assert out.stderr.startswith("aquarat: there is no asset 'nope'; there are aqua_dataset, ")
    assert len(lines(out.stderr)) == 1
    out = shell.run(*OURS, "aqua_dataset", "--profile", "nope")
    assert out.returncode == 2 and out.stderr.startswith("aquarat: unknown profile 'nope'")
    shell.orders["aqua_dataset"] = {"user_error": "mend this"}
    out = shell.run(*OURS, "aqua_dataset", "--json")
    assert out.returncode == 1, "it was started and failed"
    assert "aquarat: aqua_dataset: mend this" in out.stderr and "Traceback" not in out.stderr
    assert json.loads(out.stdout)["error"] == "aqua_dataset: mend this"


def test_ctrl_c_in_aquarat_materialize(shell: Shell) -> None:
    out = shell.interrupted("chat_datasets", *OURS, "aqua_dataset", "chat_datasets")
    assert out.returncode == 130
    assert lines(out.stderr)[-1].startswith("interrupted: 1 of 2 assets are made and kept. Run it again: it continues")
    assert "Traceback" not in out.stderr
