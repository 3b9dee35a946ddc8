"""Progress bars on a real terminal."""

import os
import subprocess
import sys
from pathlib import Path

STEP = """
import os, sys
from aquarat_pipeline.jobs import progress
os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 2)  # as the demo sends Dagster's log to a file
with progress.display("stage [/b]") as show:
    print("a line of Dagster's log", file=sys.stderr, flush=True)
    show({"done": 3, "total": 3, "unit": "[/i]", "metrics": {"[/u]": 1.0}})
"""


def test_log_lines_stay_out_of_the_bars_and_texts_are_not_markup(root: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    log = tmp_path / "log"
    environment = {**os.environ, "AQUARAT_PROGRESS": "auto", "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", STEP, str(log)]
    step = subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, cwd=root, env=environment)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert step.returncode == 0, log.read_text()
    assert "Dagster's log" in log.read_text()
    assert "Dagster's log" not in shown
    assert "stage [/b]" in shown and "[/i]" in shown and "[/u] 1" in shown
