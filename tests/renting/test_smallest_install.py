"""`aquarat hosts reap` in an environment with the wheel and three small packages, away from the checkout."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.pipeline.test_wheels import Environment, uv
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.machines import Machine, Timing
from tests.renting.fakes.server import KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NEEDED = ("pydantic", "pyyaml", "google-crc32c")
"""As docs/renting.md says."""
REAP = """
import sys
from importlib.util import find_spec
assert not any(map(find_spec, ("dagster", "torch", "numpy", "pyarrow", "fsspec", "requests"))), "none of them is needed"
from aquarat_core.cli import main
from aquarat_pipeline.renting.clouds import lambda_cloud
lambda_cloud.ADDRESS = sys.argv.pop(1)
sys.exit(main(sys.argv[1:]))
"""


def test_it_ends_what_is_overdue_with_an_api_key_and_nothing_else(root: Path, tmp_path: Path) -> None:
    assert all(name in (root / "docs/renting.md").read_text() for name in NEEDED)
    environment = Environment(root, tmp_path)
    (wheel,) = environment.wheels.glob("aquarat-*.whl")
    python = environment.folder / "bin/python"
    uv(root, "pip", "install", "--python", python, "--no-deps", wheel)
    uv(root, "pip", "install", "--python", python, "--constraint", root / "requirements.lock", *NEEDED)
    store = tmp_path / "store"
    clock: Any = SimpleNamespace(now=time.time)
    with FakeLambda(clock, timing=Timing(boot=1, ending=1), every=0.5).serve() as fake:
        made = [
            Machine(f"id-{n}", name, "gpu_1x_a10", "us-east-1", 1_290_000, time.time() - 9, Timing(), KEY)
            for n, name in enumerate(("aq-abc123-00000000-000001", "aq-other1-00000000-000001", "theirs"))
        ]
        for one in made:
            fake.add(one)
        command = ["hosts", "reap", "--installation", "abc123", "--store", f"file://{store}", "--machine", "box"]
        alone = {"LAMBDA_API_KEY": KEY, "DAGSTER_HOME": ""}
        done = environment.run("python", "-c", REAP, fake.address, *command, **alone)
        assert done.returncode == 3, done.stderr
        assert "asked to end aq-abc123-00000000-000001" in done.stdout and KEY not in done.stdout + done.stderr
        assert [one.end_asked is None for one in made] == [False, True, True]
        assert fake.complaints == []
    told = json.loads((store / "rentals/abc123/reapers/box.json").read_text())
    assert told["looks"] == [{"account": "lambda", "cloud": "lambda", "looked": True}]
    done = environment.run("aquarat", "hosts", "reap", "--installation", "abc123")
    assert done.returncode == 2 and "there is no key: set LAMBDA_API_KEY" in done.stderr
    done = environment.run("aquarat", "--help")
    assert "hosts" in done.stdout and "Dagster is not installed: pip install 'aquarat[pipeline]'" in " ".join(
        done.stdout.split()
    )
