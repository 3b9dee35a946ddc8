"""Where the store keeps the unfinished state of a training run, and which runs may continue from it.

    work/<stage>/<key>/<step>-<attempt>/rank-00000.safetensors   the tensors a rank wrote, or shards and their index
                                        rank-00000.json          the rest of its state
                                        rank-00000.done.json     both files' digests: this rank has written all
                                        commit.json              written last: step, identity and every file

The key is a hash of what decides the result (stage, config, inputs, and the sources that compute it). The same command
therefore finds its state again from any host, and a different command does not. Where the ranks run, how often
checkpoints are saved and what is logged do not count. A commit also holds the complete code version; a run that
continues after that has changed says so in its log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from aquarat_core.artifacts.backend import Backend
from aquarat_core.artifacts.errors import RecordError
from aquarat_core.artifacts.hashing import Digest, digest_bytes, digest_file
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.artifacts.records import read_checkpoint_json, read_commit
from aquarat_core.config import ConfigError

COMMIT = "commit.json"
PLACEMENT = ("launch", "wandb", "checkpoint", "samples")
"""Config fields that control where a run happens and how it is watched, but not its result. In `launch`, only the
types of matrix products affect the result."""
DIVISION = ("micro_batch_rows", "rollout_rows")
"""Config fields that say how much a rank computes at a time, which follow from its memory and so from the number of
ranks. They only change the last bits of sums, except that 8-bit products take one scale for a micro-batch."""
SHOWN = 5


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """A complete checkpoint."""

    folder: str
    """Key of its folder in the store."""
    step: int
    identity: dict[str, Any]
    wandb_id: str | None
    files: dict[str, Digest]
    code_version: str | None = None
    """W&B id of the run that saved it, as in manifests; None in checkpoints older than this field."""


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of one run; `identity` is everything that decides its result, as nested JSON."""

    backend: Backend
    prefix: str
    identity: dict[str, Any]
    fence: Callable[[], None] = field(default=lambda: None, compare=False)
    """Called before a commit; raises if another process has taken over the run."""
    code_version: str | None = None
    """Hash of all of this run's sources, including those that only record or report."""

    def folder(self, step: int, attempt: str) -> str:
        return f"{self.prefix}/{step:08d}-{attempt}"

    @staticmethod
    def step_of(folder: str) -> int:
        return int(folder.rpartition("/")[2].partition("-")[0])

    def checkpoints(self) -> list[CheckpointManifest]:
        """Complete checkpoints, the latest first."""
        keys = [key for key in self.backend.keys(f"{self.prefix}/") if key.endswith(f"/{COMMIT}")]
        found = (manifest for key in sorted(keys, reverse=True) if (manifest := self._read(key)))
        return sorted(found, key=lambda manifest: -manifest.step)

    def folders(self) -> Iterator[str]:
        """Keys of all checkpoint folders, complete or not."""
        yield from dict.fromkeys(key.rpartition("/")[0] for key in self.backend.keys(f"{self.prefix}/"))

    def put(self, folder: str, path: Path) -> Digest:
        """Store a file of a checkpoint under its own name."""
        digest = digest_file(path)
        self.backend.put_file(f"{folder}/{path.name}", path, digest)
        return digest

    def write_json(self, folder: str, name: str, obj: Any) -> Digest:
        data = canonical(obj)
        self.backend.write(f"{folder}/{name}", data)
        return digest_bytes(data)

    def read_json(self, folder: str, name: str) -> Any | None:
        found = self.backend.read(f"{folder}/{name}")
        return None if found is None else read_checkpoint_json(found.data, f"{self.backend.uri}/{folder}/{name}")

    def commit(self, manifest: CheckpointManifest) -> None:
        """Make a checkpoint valid after all of its files have been written. Raises whatever `fence` raises."""
        self.fence()
        obj = {
            "step": manifest.step,
            "identity": manifest.identity,
            "wandb_id": manifest.wandb_id,
            "files": {name: [d.size, d.sha256, d.crc32c] for name, d in manifest.files.items()},
            "code_version": self.code_version,
        }
        self.backend.create(f"{manifest.folder}/{COMMIT}", canonical(obj))

    def fetch(self, manifest: CheckpointManifest, target: Path) -> bool:
        """Copy the files of a checkpoint into `target`; returns False if one is missing or damaged."""
        return all(
            self.backend.get_file(f"{manifest.folder}/{name}", target / name) == digest
            for name, digest in manifest.files.items()
        )

    def remove(self, folder: str) -> None:
        """Delete a checkpoint, the commit first: if this is interrupted, the rest counts as unfinished."""
        self.backend.delete(f"{folder}/{COMMIT}")
        for key in list(self.backend.keys(f"{folder}/")):
            self.backend.delete(key)

    def clear(self) -> None:
        """Delete everything, once the run's result is published."""
        for folder in list(self.folders()):
            self.remove(folder)

    def at(self, place: str) -> CheckpointStore:
        """The checkpoint store of another run of the same stage, given its key or `work/<stage>/<key>`."""
        return replace(self, prefix=f"{self.prefix.rpartition('/')[0]}/{place.rpartition('/')[2]}")

    def refuse_another_run(self, manifest: CheckpointManifest) -> None:
        """Raise `ConfigError` with both values if `manifest` was made with other settings or other data."""
        differing = list(differences(manifest.identity, self.identity))
        # Older checkpoints state how their steps were divided.
        mute = ("code:", *(f"config.{name}:" for name in DIVISION if name not in self.identity["config"]))
        decisive = [line for line in differing if not line.startswith(mute)]
        if decisive:
            more = f"\n  and {len(decisive) - SHOWN} more" if len(decisive) > SHOWN else ""
            lines = "".join(f"\n  {line}" for line in decisive[:SHOWN])
            raise ConfigError(
                f"{manifest.folder} cannot be resumed by this run, which would train on something else:{lines}{more}\n"
                "Set them back, or set checkpoint.resume to 'auto' to train from the beginning."
            )

    def other_code(self, manifest: CheckpointManifest) -> str | None:
        """A line for the log if other code than this run's saved `manifest`, otherwise None."""
        if manifest.identity.get("code") != self.identity["code"]:
            theirs, ours = str(manifest.identity.get("code")), str(self.identity["code"])
            return (
                f"{manifest.folder} was made by other code that affects the result ({theirs[:12]}, now {ours[:12]}); "
                "the run continues from it because checkpoint.resume names it"
            )
        if manifest.code_version is None or self.code_version is None or manifest.code_version == self.code_version:
            return None
        return (
            f"{manifest.folder} was saved by code version {manifest.code_version[:12]}, and this is "
            f"{self.code_version[:12]}: what has changed since does not affect the result"
        )

    def left_by_other_code(self) -> list[str]:
        """A line for each unfinished state of this stage, config and inputs that other code left and this run
        ignores."""
        there, _, mine = self.prefix.rpartition("/")
        latest: dict[str, str] = {}
        for key in sorted(key for key in self.backend.keys(f"{there}/") if key.endswith(f"/{COMMIT}")):
            latest[key.removeprefix(f"{there}/").partition("/")[0]] = key
        found = [self._read_if_sound(key) for place, key in latest.items() if place != mine]
        return [self._not_taken(manifest) for manifest in found if manifest and self._differs_in_code_alone(manifest)]

    def _read_if_sound(self, key: str) -> CheckpointManifest | None:
        try:
            return self._read(key)
        except RecordError:
            return None  # another run's business

    def _differs_in_code_alone(self, manifest: CheckpointManifest) -> bool:
        return {**manifest.identity, "code": None} == {**self.identity, "code": None}

    def _not_taken(self, manifest: CheckpointManifest) -> str:
        place = manifest.folder.rpartition("/")[0]
        return (
            f"{place} has the state after step {manifest.step} with the same config and inputs, but from other code "
            f"({str(manifest.identity.get('code'))[:12]}, now {str(self.identity['code'])[:12]}): this run does not "
            f"use it. To continue from it, set checkpoint.resume to {place.rpartition('/')[2]!r}"
        )

    def _read(self, key: str) -> CheckpointManifest | None:
        found = self.backend.read(key)
        if found is None:
            return None
        obj = read_commit(found.data, f"{self.backend.uri}/{key}")
        files = {name: Digest(*values) for name, values in obj.files.items()}
        return CheckpointManifest(key.rpartition("/")[0], obj.step, obj.identity, obj.wandb_id, files, obj.code_version)


def checkpoint_store(
    backend: Backend,
    stage: str,
    config: Mapping[str, Any] | None,
    inputs: Mapping[str, str],
    code: str,
    code_version: str | None = None,
) -> CheckpointStore:
    """The checkpoints of a run of `stage`. `inputs` are data versions by name; `code` is the hash of the sources that
    decide the result.

    `code_version` is the hash of all sources; checkpoints record it, but it does not decide anything.
    """
    launch = (config or {}).get("launch", {})
    without = PLACEMENT if launch.get("float8") else (*PLACEMENT, *DIVISION)
    decisive = {name: value for name, value in (config or {}).items() if name not in without}
    decisive["launch"] = {"dtype": launch.get("dtype")}
    # Older checkpoints do not have these fields in their key.
    if launch.get("float8"):
        decisive["launch"]["float8"] = True
    if launch.get("gather_dtype", "float32") != "float32":
        decisive["launch"]["gather_dtype"] = launch["gather_dtype"]
    # Through JSON, so that it compares equal with a value that was read back.
    identity = json.loads(json.dumps({"stage": stage, "config": decisive, "inputs": dict(inputs), "code": code}))
    prefix = f"work/{stage}/{digest_bytes(canonical(identity)).sha256[:16]}"
    return CheckpointStore(backend, prefix, identity, code_version=code_version)


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """`field: value there, value here` for every leaf where two nested JSON values differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        left, right = cast("dict[str, Any]", theirs), cast("dict[str, Any]", ours)
        for key in sorted(left.keys() | right.keys()):
            yield from differences(left.get(key), right.get(key), f"{path}.{key}" if path else key)
    elif theirs != ours:
        yield f"{path}: {theirs!r} in the checkpoint, {ours!r} now"
