"""Runs a stage again from its manifest, and compares the result with the published artifact.

Everything that decides the result is in the manifest: stage, config with seeds, inputs by hash, code version. The stage
runs in a separate store, to which its inputs are copied, so the original store does not change. On the same hardware
with the same libraries, every byte must be the same; elsewhere, sums of floats round differently, and weights may
differ by a stated tolerance.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, git_state
from aquarat_core.artifacts.weights import open_tensors
from aquarat_core.config import ChatDatasetsConfig, TaskDefinition, validate
from aquarat_core.errors import UserError
from aquarat_core.maintenance.copying import push
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.command import STAGE, torchrun
from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = ".safetensors"
TIMED = (
    "seconds",
    "per_second",
    "mfu",
    *(f"{phase}_share" for phase in ("rollout", "scoring", "update", "eval", "probe", "wait")),
)
"""Endings of the names of metrics that measure time, which no second run repeats."""
_DECIDING_LIBRARIES = ("python", "torch", "numpy")
_DECIDING_HARDWARE = ("cpu", "gpu", "gpus")


class ReproductionError(UserError):
    """A stage that cannot be run again or that failed; the message says why."""


@dataclass(frozen=True, slots=True)
class FileComparison:
    """One file of the artifact; `distance` is the largest relative difference of its tensors, if it has any."""

    path: str
    identical: bool
    distance: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The outcome. `bitwise` requires every byte to be the same; otherwise, weights may differ by `tolerance`."""

    original: Artifact
    again: Artifact
    bitwise: bool
    tolerance: float
    files: tuple[FileComparison, ...]
    metrics: dict[str, tuple[Any, Any]]
    """Metrics that differ, except times."""

    @property
    def ok(self) -> bool:
        if self.bitwise:
            return all(f.identical for f in self.files)
        return all(f.identical or (f.distance is not None and f.distance <= self.tolerance) for f in self.files)


def reproduce(
    artifact: Artifact, folder: Path, *, anyway: bool = False, run_code: bool = False, tolerance: float = 0.01
) -> Reproduction:
    """Runs the artifact's stage again, in a store under `folder`. Its output goes to stderr.

    Raises `ReproductionError` if the code differs from that of the manifest (unless `anyway`), if the manifest contains
    code (unless `run_code`), or if the stage fails.
    """
    manifest = artifact.manifest
    if source := manifest.adopted_from:
        raise ReproductionError(
            f"{artifact.asset} ({artifact.uri}) was adopted from {source.asset} and has the same files: reproduce "
            f"{source.manifest_sha256[:12]} instead"
        )
    stage = STAGES.get(artifact.asset)
    if stage is None:
        raise ReproductionError(f"{artifact.asset} is not a stage of this version, which has {', '.join(STAGES)}")
    config_type = stage.config_type()
    section = validate(config_type, manifest.config, artifact.asset) if config_type else None
    if section is not None and not run_code:
        _refuse_code_of_manifest(artifact, section)
    code = _require_code(artifact, stage, section, anyway)
    store = ArtifactStore.open(f"file://{folder.absolute()}/store")
    for parent in manifest.parents:
        push(artifact.store.get(parent.manifest_sha256), store, latest=False)
    spec = StageSpec(
        stage=stage.name,
        store=store.uri,
        profile=manifest.profile,
        profile_sha256=manifest.profile_sha256,
        config=manifest.config if section else None,
        inputs={parent.asset: parent for parent in manifest.parents},
        code=code,
        run_id=f"reproduce-{artifact.sha256[:12]}",
        step_key=stage.name,
    )
    again = _run(stage, spec, store, folder)
    same_place = _same(manifest.hardware, again.manifest.hardware, _DECIDING_HARDWARE) and _same(
        manifest.libraries, again.manifest.libraries, _DECIDING_LIBRARIES
    )
    return Reproduction(
        artifact,
        again,
        bitwise=same_place and code.version == manifest.code.version,
        tolerance=tolerance,
        files=tuple(_compare_files(artifact, again)),
        metrics=_differing_metrics(manifest.metrics, again.manifest.metrics),
    )


def _refuse_code_of_manifest(artifact: Artifact, section: BaseModel) -> None:
    """Raises `ReproductionError` for a manifest with tasks' code, which anyone with write access to its store can
    forge."""
    held: dict[str, TaskDefinition] = {**getattr(section, "definitions", {})}
    if isinstance(section, ChatDatasetsConfig):
        held |= section.tasks
    modules = [
        f"{name} ({task.module}, SHA-256 {hashlib.sha256(task.code.encode()).hexdigest()[:12]})"
        for name, task in held.items()
        if task.code is not None
    ]
    if modules:
        raise ReproductionError(
            f"{artifact.asset} ({artifact.uri}) was made with Python code that its manifest contains, for the task "
            f"{', '.join(modules)}. It would run here with your rights: read it with `aquarat show "
            f"{artifact.sha256[:12]} --json`, and add --run-code if you trust it"
        )


def _require_code(artifact: Artifact, stage: Stage, section: BaseModel | None, anyway: bool) -> CodeVersion:
    made_by = artifact.manifest.code
    here = code_version(stage, section)
    if here != made_by.version and not anyway:
        commit = f"check out {made_by.commit}" if made_by.commit else "use the sources it was made with"
        dirty = ", which then had uncommitted changes" if made_by.dirty else ""
        raise ReproductionError(
            f"{artifact.asset} ({artifact.uri}) was made by code version {made_by.version[:12]}, but here it is "
            f"{here[:12]}: {commit}{dirty}, or add --anyway to run the current code"
        )
    commit, dirty = git_state(REPO_ROOT)
    return CodeVersion(version=here, commit=commit, dirty=dirty)


def _run(stage: Stage, spec: StageSpec, store: ArtifactStore, folder: Path) -> Artifact:
    job = store.job(spec.run_id, spec.step_key, spec.attempt)
    job.write_json("spec.json", spec.model_dump(mode="json"))
    launch = (spec.config or {}).get("launch", {})
    command = [sys.executable, *STAGE, f"{job.uri}/spec.json"]
    if stage.distributed:
        command = torchrun(command[1:], launch.get("nproc", 1), str(folder / "logs"))
    environment = {
        "GLOO_SOCKET_IFNAME": "lo",
        "WANDB_MODE": "offline",
        **os.environ,
        "OMP_NUM_THREADS": str(launch.get("threads", 1)),
    }
    code = subprocess.run(command, env=environment, stdout=2).returncode
    result = job.read_json("result.json")
    if code or not result or not result["ok"]:
        said = result["error"]["message"] if result and not result["ok"] else f"it ended with exit code {code}"
        raise ReproductionError(f"{stage.name} did not complete when it was run again: {said}")
    return store.get(result["manifest_sha256"])


def _same(left: dict[str, Any], right: dict[str, Any], names: tuple[str, ...]) -> bool:
    return all(left.get(name) == right.get(name) for name in names)


def _compare_files(original: Artifact, again: Artifact) -> list[FileComparison]:
    left = {f.path: f for f in original.manifest.files}
    right = {f.path: f for f in again.manifest.files}
    found: list[FileComparison] = []
    for path in sorted({*left, *right}):
        if path not in left or path not in right:
            found.append(FileComparison(path, False, None, "only there again" if path in right else "not there again"))
        elif left[path].digest == right[path].digest:
            found.append(FileComparison(path, True, 0.0, "identical"))
        elif path.endswith(WEIGHTS):
            distance = weights_distance(original.path(path), again.path(path))
            found.append(FileComparison(path, False, distance, f"tensors differ by up to {distance:.3g}"))
        else:
            found.append(FileComparison(path, False, None, "differs"))
    return found


def weights_distance(left: Path, right: Path) -> float:
    """The largest relative difference |a - b| / |a| (Frobenius norms) over the tensors of two files.

    Infinite if names or shapes differ or a value is not finite.
    """
    with open_tensors(left) as a, open_tensors(right) as b:
        if set(a.keys()) != set(b.keys()):
            return math.inf
        worst = 0.0
        for name in a.keys():  # noqa: SIM118  (not a dictionary)
            x, y = a.get_tensor(name).double(), b.get_tensor(name).double()
            if x.shape != y.shape:
                return math.inf
            size = _norm(x)
            distance = _norm(x - y) / size if size else (math.inf if _norm(y) else 0.0)
            worst = math.inf if math.isnan(distance) else max(worst, distance)
        return worst


def _norm(x: Tensor) -> float:
    # torch does not declare the types.
    return float(x.norm())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _differing_metrics(left: dict[str, Any], right: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [name for name in sorted({*left, *right}) if not name.endswith(TIMED)]
    return {n: (left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)}
