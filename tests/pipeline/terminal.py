"""Commands on toy stages as a user runs them in `./run shell`: real processes, each with a Dagster home and a store."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from tests.patience import wait_until

METRICS = {"accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "n": 100, "constant_letter_accuracy": 0.25}


class Shell:
    """One home; `orders` say what the toy stages do."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root, self.directory = root, directory
        self.home = directory / "dagster_home"
        self.home.mkdir()
        shutil.copy(root / "dagster_home/dagster.yaml", self.home)
        self.orders = {f"{stage}_eval_report": {"metrics": METRICS} for stage in ("base", "mid", "sft", "rl")}

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("AQUARAT_")},
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_MODULE_NAME": "tests.pipeline.toy_definitions",
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(self.root),
            "PYTHONWARNINGS": "ignore",
            "AQUARAT_STORE": f"file://{self.directory}/store",
            "AQUARAT_CACHE": str(self.directory / "cache"),
            **{f"TOY_{name.upper()}": json.dumps(order) for name, order in self.orders.items()},
        }

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A module with its arguments, streams apart."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            env={**self.environment, **env},
            cwd=self.directory,
            capture_output=True,
            text=True,
        )

    def interrupted(self, asset: str, *command: str) -> subprocess.CompletedProcess[str]:
        """The command, with one Ctrl-C once the stage of `asset` is at work."""
        hanging = self.directory / "hanging"
        self.orders[asset] = {"hang": str(hanging)}
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=self.environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: hanging.exists() or process.poll() is not None, 120, f"{asset} is at work")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        del self.orders[asset]
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def on_terminal(self, *command: str) -> tuple[int, str]:
        """Exit code and all that the command writes to a terminal of 100 columns."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**self.environment, "TERM": "xterm", "COLUMNS": "100"},
            cwd=self.directory,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
        os.close(ours)
        return process.wait(), shown.decode()

    def runs(self) -> list[dg.DagsterRun]:
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return list(instance.get_runs())

    def details(self, answer: dict[str, Any]) -> dict[str, Any]:
        return json.loads(Path(answer["details"]).read_text())


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""  # the other side has ended
