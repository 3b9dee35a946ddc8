"""A home with a sweep over toy stages, or over real ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from tests.patience import wait_until
from tests.pipeline.terminal import Shell

TOYS = "tests.sweeps.toy_definitions"
SWEEP = """
profile: demo
fields: {tokenizer.vocab_size: [300, 400]}
make: [pretrain_tokens]
"""


class Sweeper(Shell):
    """Runs `aquarat sweep lr.yaml` in a home of its own."""

    definitions = TOYS

    def sweep(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("aquarat_core.cli", "sweep", "lr.yaml", *options)

    def started(self, asset: str) -> subprocess.Popen[str]:
        """The sweep, while the stage of `asset` hangs."""
        hanging = self.directory / "hanging"
        self.orders[asset] = {"hang": str(hanging)}
        process = subprocess.Popen(
            [sys.executable, "-m", "aquarat_core.cli", "sweep", "lr.yaml"],
            env=self.environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: hanging.exists() or process.poll() is not None, 240, f"{asset} is at work")
        del self.orders[asset]
        return process

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "DAGSTER_MODULE_NAME": self.definitions}

    def made(self) -> dict[str, int]:
        """How often runs have made each stage, in all experiments."""
        found: dict[str, int] = {}
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            for run in instance.get_runs():
                for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
                    assert event.dagster_event is not None and event.dagster_event.asset_key is not None
                    stage = event.dagster_event.asset_key.path[-1]
                    found[stage] = found.get(stage, 0) + 1
        return found


@pytest.fixture
def sweeper(root: Path, tmp_path: Path) -> Sweeper:
    (tmp_path / "lr.yaml").write_text(SWEEP)
    return Sweeper(root, tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a sweep's file."""

    def file(text: str) -> Path:
        path = tmp_path / "lr.yaml"
        path.write_text(text)
        return path

    return file
