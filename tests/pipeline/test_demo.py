"""`./run demo` over toy stages; that it works with the real ones is the end-to-end test of the whole chain."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aquarat_core.config import load_profile
from aquarat_core.stages.registry import used_stages
from tests.pipeline.terminal import Shell

DEMO = "aquarat_pipeline.demo"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("AQUARAT_PROFILE", "nope", "unknown profile 'nope': choose one of"),
        ("AQUARAT_STORE", "file:///proc/nowhere", "file:///proc/nowhere cannot be used"),
    ],
)
def test_the_last_line_says_what_went_wrong(
    root: Path, tmp_path: Path, store_uri: str, variable: str, value: str, expected: str
) -> None:
    (tmp_path / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), variable: value}
    command = [sys.executable, "-m", DEMO]
    out = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert out.returncode == 1
    answer = json.loads(out.stdout.splitlines()[-1])
    assert answer["ok"] is False
    assert expected in answer["error"] and expected in out.stderr
    assert "Traceback" not in out.stderr and "Stack Trace" not in out.stderr
    assert Path(answer["log"]).is_file()


def test_help_and_unknown_arguments_start_nothing(root: Path, tmp_path: Path) -> None:
    shell = Shell(root, tmp_path)
    out = shell.run(DEMO, "--help")
    assert (out.returncode, out.stderr) == (0, "") and "--profile NAME" in out.stdout and "--again" in out.stdout
    out = shell.run(DEMO, "--porfile", "tiny")
    assert out.returncode == 2 and "unrecognized arguments: --porfile tiny" in out.stderr
    out = shell.run(DEMO, "--profile", "nope")
    assert out.returncode == 1 and "unknown profile 'nope': choose one of" in out.stderr
    assert shell.runs() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_ends_with_its_result_and_makes_only_what_is_not_fresh(root: Path, tmp_path: Path) -> None:
    shell = Shell(root, tmp_path)
    out = shell.interrupted("tokenizer", DEMO)
    assert out.returncode == 130
    assert out.stderr.splitlines()[-1].startswith("interrupted: 3 of 15 assets are made and kept. Run it again")
    assert json.loads(out.stdout)["ok"] is False

    out = shell.run(DEMO)
    assert out.returncode == 0, out.stderr
    last = out.stdout.splitlines()[-1]
    answer = json.loads(last)
    assert len(last) < 1000 and answer["ok"] is True and answer["accuracy"] == 0.5
    assert Path(answer["report"]).name == "report.html" and answer["store"] == f"file://{tmp_path}/store"
    assets = shell.details(answer)["assets"]
    assert list(assets) == list(used_stages(load_profile("demo")))
    assert {name for name, facts in assets.items() if facts["fresh"]} == {
        "aqua_dataset", "chat_datasets", "pretrain_text",
    }  # fmt: skip
    assert "aqua_dataset      fresh: made " in out.stderr
    assert "stage 1 of 12" in out.stderr and "stage 12 of 12" in out.stderr
    assert "left" not in out.stderr, "nothing is known of stages that never ran"
    # The run stands under its job, and in the UI it can be run again.
    latest = shell.runs()[0]
    assert latest.job_name == "pipeline" and latest.remote_job_origin is not None

    code, shown = shell.on_terminal(DEMO)
    assert code == 0
    assert "All were fresh and left as they are: --again makes them again." in shown
    assert '"ok"' not in shown, "on a terminal the table is what is seen last"
    assert len(shell.runs()) == 2

    code, shown = shell.on_terminal(DEMO, "--again", "--json")
    assert code == 0
    assert json.loads(shown.splitlines()[-1])["ok"] is True
    assert re.search(r"stage 5 of 15 .*about \d+ s left", shown), "as long as these stages took before"
