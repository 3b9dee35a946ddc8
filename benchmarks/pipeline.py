"""The whole demo chain, once, from an empty store: wall time by asset, time outside the stages' own work, memory.

The profile is that of `AQUARAT_PROFILE`, default demo; the goals are the demo's. One process runs the chain in a new
`DAGSTER_HOME`, and its wall time, from start to exit, is made of

- `stages`: the seconds of the stages' own work, summed over the manifests, and
- `outside_stages`, the rest, in two parts: `stage_processes`, the assets' steps less that work (starting processes and
  ranks, publishing, ending them, and what Dagster does within a step), and `dagster`, what passes between steps
  (importing Dagster, planning, checks, the result's table).

Memory is the demo's own figure: the largest sum of proportional set sizes over its processes, sampled twice a second.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.config import DEFAULT_PROFILE
from aquarat_core.settings import REPO_ROOT
from benchmarks.harness import Against, BenchError, Result

DEMO_GOALS = {"wall_time": "≤ 600 s", "peak_memory": "≤ 6 GB"}
MIB = 1 << 20


def run() -> list[Result]:
    """Runs the chain in a directory of its own, which stays there, for its logs, when `BenchError` is raised."""
    home = Path(tempfile.mkdtemp(prefix="aquarat-bench-"))
    shutil.copy(REPO_ROOT / "dagster_home" / "dagster.yaml", home)
    wall, answer = _demo(home)
    store = ArtifactStore.open(answer["store"])
    artifacts = [store.get(asset["manifest_sha256"]) for asset in answer["assets"].values()]
    measured = results(wall, answer, artifacts)
    shutil.rmtree(home)
    return measured


def results(wall: float, answer: Mapping[str, Any], artifacts: Iterable[Artifact]) -> list[Result]:
    """The bench's results from the demo's wall seconds, its answer and its artifacts."""
    profile = answer["profile"]
    goals = DEMO_GOALS if profile == DEFAULT_PROFILE else {}
    stages = sum(float(a.manifest.metrics["seconds"]) for a in artifacts)
    steps = sum(asset["seconds"] for asset in answer["assets"].values())
    whole = Against(f"{profile}/wall_time", wall)

    def part(name: str, seconds: float) -> Result:
        return Result(f"{profile}/{name}", "s", (seconds,), whole, seconds / wall)

    return [
        Result(f"{profile}/wall_time", "s", (wall,), goal=goals.get("wall_time")),
        *(part(name, asset["seconds"]) for name, asset in answer["assets"].items()),
        part("stages", stages),
        part("outside_stages", wall - stages),
        part("stage_processes", steps - stages),
        part("dagster", wall - steps),
        Result(f"{profile}/peak_memory", "GB", (answer["peak_memory_mb"] * MIB / 1e9,), goal=goals.get("peak_memory")),
    ]


def _demo(home: Path) -> tuple[float, dict[str, Any]]:
    """Wall seconds of the demo and the figures in the file that its last line names."""
    places = {"DAGSTER_HOME": str(home), "AQUARAT_STORE": f"file://{home}/store", "AQUARAT_CACHE": f"{home}/cache"}
    started = time.monotonic()
    demo = subprocess.run(
        [sys.executable, "-m", "aquarat_pipeline.demo"],
        cwd=REPO_ROOT,
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        text=True,
    )
    wall = time.monotonic() - started
    if demo.returncode:
        raise BenchError(f"the demo ended with exit code {demo.returncode}; what it said stands above")
    return wall, json.loads(Path(json.loads(demo.stdout.splitlines()[-1])["details"]).read_text())
