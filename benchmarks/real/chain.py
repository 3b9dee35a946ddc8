"""Makes the artifacts of `./run bench rl-real` with the project's own stages, in a store that stays in its work folder.

A part that was made before by the same code, from the same config and inputs, is taken from the store; a stage that was
cut off continues from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, JobDir, git_state
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.config import Profile, load_profile
from aquarat_core.config.fields import merge
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.code_version import code_version, result_version
from aquarat_core.stages.command import STAGE, torchrun
from aquarat_core.stages.registry import STAGES
from benchmarks.harness import BenchError

PROFILE, QUICK = (Path(__file__).with_name(name) for name in ("profile.yaml", "quick.yaml"))
LAST = "rl_checkpoint"


@dataclass
class Chain:
    """The artifacts made so far, by asset; those of RL are returned and not kept here."""

    folder: Path
    file: Path
    """The profile's."""
    changes: dict[str, Any]
    """To the profile's sections, for all that is made here; they win over those of a variant."""
    endpoint: str
    """The address of the Hub."""
    tell: Callable[[str], None]
    made: dict[str, Artifact] = field(default_factory=dict[str, Artifact])
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Of each part's own work, in whichever run it was made."""

    def __post_init__(self) -> None:
        self.store = ArtifactStore.open(f"file://{self.folder}/store")

    def branch(self, changes: dict[str, Any]) -> Chain:
        """A chain that has the same parts up to now, and makes others with `changes` to the profile's sections."""
        return replace(self, changes=merge(changes, self.changes), made={**self.made})

    def profile(self, changes: dict[str, Any] | None = None) -> Profile:
        """The bench's profile with `changes` to its RL section."""
        return load_profile(str(self.file), merge({LAST: changes or {}}, self.changes))

    def prepare(self) -> None:
        """Makes everything before RL."""
        for stage in takewhile(lambda name: name != LAST, STAGES):
            self.made[stage] = self.make(stage)

    def make(self, stage: str, name: str | None = None, changes: dict[str, Any] | None = None) -> Artifact:
        """The stage's artifact, made now or before; `name` tells the variants of a stage apart.

        Raises `BenchError` with the stage's own words if it refuses or fails.
        """
        name = name or stage
        row = STAGES[stage]
        config = row.config(self.profile(changes))
        inputs = {asset: self.made[asset] for asset in row.needs(config)}
        described = config and config.model_dump(mode="json")
        versions = {asset: artifact.data_version for asset, artifact in inputs.items()}
        key = canonical([stage, described, versions, result_version(row, config)])
        run_id = f"{name}-{hashlib.sha256(key).hexdigest()[:12]}"
        attempts = (self.store.job(run_id, stage, n) for n in count(1))
        job = next(job for job in attempts if _ended_well(job) or job.read_json("spec.json") is None)
        if not (reused := _ended_well(job)):
            commit, dirty = git_state(REPO_ROOT)
            spec = StageSpec(
                stage=stage, store=self.store.uri, profile="rl-real", config=described,
                inputs={asset: artifact.as_parent() for asset, artifact in inputs.items()},
                code=CodeVersion(version=code_version(row, config), commit=commit, dirty=dirty),
                run_id=run_id, step_key=stage,
            )  # fmt: skip
            job.write_json("spec.json", spec.model_dump(mode="json"))
            self._run(name, f"{job.uri}/spec.json", config.launch.nproc if row.distributed and config else 1)
        result = job.read_json("result.json")
        if result is None or not result["ok"]:
            said = result["error"]["message"] if result else "it left no result"
            raise BenchError(f"{name}: {said} (see {self._log(name)})")
        self.seconds[name] = result["seconds"]
        self.tell(f"{name}: {'made before in' if reused else 'made in'} {result['seconds']:.0f} s")
        return self.store.get(result["manifest_sha256"])

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _run(self, name: str, spec: str, ranks: int) -> None:
        log = self._log(name)
        log.parent.mkdir(exist_ok=True)
        program = (*STAGE, spec)
        command = [sys.executable, *program]
        if ranks > 1:
            command = torchrun(program, ranks, str(self.folder / "logs" / f"{name}.ranks"))
        environment = os.environ | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.folder / "hf"),
            "AQUARAT_CACHE": str(self.folder / "cache"),
            "WANDB_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
        }
        with log.open("a") as out:
            print(f"--- {time.strftime('%F %T')} {spec}", file=out, flush=True)
            with subprocess.Popen(
                command, cwd=REPO_ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
            ) as process:
                try:
                    process.wait()
                except BaseException:
                    process.terminate()  # a training stage saves its state
                    process.wait()
                    raise


def _ended_well(job: JobDir) -> bool:
    result = job.read_json("result.json")
    return bool(result and result["ok"])
