"""Base, mid, SFT and RL at the smallest size, each run once without interruption and once killed at many points."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.config import standing_alone
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.registry import CHECKPOINTS, STAGES

STEPS, SAVE_EVERY = 72, 3
TRAIN = {
    "launch": {"nproc": 1, "threads": 1, "device": "cpu"},
    "steps": STEPS,
    "batch_tokens": 4 * 128,
    "micro_batch_rows": 2,
    "eval_every": 24,
    "eval_tokens": 512,
    "samples": {"every": 9, "max_new_tokens": 8},
    "checkpoint": {"every_steps": SAVE_EVERY, "keep_last": 2},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "aqua_dataset": {"n_train": 200, "n_validation": 20, "n_test": 20, "max_level": 1},
    "chat_datasets": {"sources": [{"name": "drills", "n_train": 100, "n_test": 10}], "max_level": 1},
    "pretrain_text": {"n_documents": 300, "n_validation_documents": 50, "max_level": 1},
    "tokenizer": {"vocab_size": 400},
    "base_checkpoint": TRAIN
    | {"model": {"depth": 2, "width_per_layer": 16, "head_size": 16, "sequence_len": 128, "embedding_taps": 2}},
    "mid_checkpoint": TRAIN | {"mixture": [{"name": "drills"}, {"name": "aqua", "limit": 100}]},
    "sft_checkpoint": TRAIN,
    # Random rewards: a policy this small answers nothing, and its updates must not be empty.
    "rl_checkpoint": {
        "launch": TRAIN["launch"],
        "steps": STEPS,
        "prompts_per_step": 2,
        "group_size": 4,
        "max_new_tokens": 8,
        "eval_every": 8,
        "eval_questions": 4,
        "probe_questions": 2,
        "reward": {"control": "random"},
        "curriculum": {"enabled": True},
        "min_parse_rate": 0,
        "min_first_reward": 0,
        "max_zero_variance": 1,
        "checkpoint": TRAIN["checkpoint"],
    },
}
COMPARED = (
    "train/loss", "train/grad_norm", "train/lr_factor", "val/loss", "val/bpb", "samples/tokens_mean",
    "rl/mean_reward", "rl/grad_norm", "rl/lr_factor", "rl/trained_tokens", "rl/entropy_mean", "rl/kl_sequence_mean",
    "rl/kl_letter_mean", "rl/curriculum_seen", "rl/alarms", "eval/accuracy",
)  # fmt: skip
TOLERANCE = 1e-4
"""Largest difference of a metric that another number of ranks may make."""
IN_FLOAT32 = CONFIGS["base_checkpoint"] | {"launch": TRAIN["launch"] | {"dtype": "float32"}}
"""Base training for starts on changing numbers of ranks: in bfloat16 the last bit of a sum would grow from step to step
until the losses differ."""
CODE = CodeVersion(version="c0de" * 16, commit=None, dirty=True)
Point = tuple[str, int]


@dataclass
class Outcome:
    """What became of one stage that was killed again and again."""

    stage: str
    points: list[Point]
    died: int
    """Points at which the process did die by SIGKILL."""
    same_weights: bool
    max_difference: float
    """Largest difference of any compared metric from the undisturbed run's; 0 when they are equal bit for bit."""
    same_rows: bool
    """Whether the rows of metrics are equal bit for bit, and as many."""
    restart_seconds: list[float] = field(default_factory=list)
    """From the start of the child to the end of its first step, for each restart."""
    redone: int = 0
    """Steps taken more than once."""
    left_in_work: int = 0
    """Objects left in the work area after the artifact was published."""
    phases: Counter[str] = field(default_factory=Counter)
    """How many of the kills fell into rollout, update, eval and checkpoint, and between steps."""
    ranks: tuple[int, ...] = (1,)
    """How many ranks each start had, in turn."""

    @property
    def name(self) -> str:
        """The stage and its ranks, `base_checkpoint, 2 -> 1 ranks`."""
        return self.stage if self.ranks == (1,) else f"{self.stage}, {' -> '.join(map(str, self.ranks))} ranks"

    @property
    def tolerance(self) -> float:
        """Bitwise for the same number of ranks; another number adds the same gradients in another order."""
        return 0.0 if len(set(self.ranks)) == 1 else TOLERANCE

    @property
    def passed(self) -> bool:
        same = self.tolerance or (self.same_weights and self.same_rows)
        whole = bool(same) and self.max_difference <= self.tolerance
        return whole and self.died == len(self.points) and self.left_in_work == 0


def points(n: int, seed: int, stage: str = CHECKPOINTS[0]) -> list[Point]:
    """`n` seeded points, as many of each kind; counts are per start, since each start counts anew."""
    rng = random.Random(seed)
    most = {"file": 2 * 5, "half": 2 * 3, "commit": 2, "delete": 4, "step": SAVE_EVERY + 2, "update": SAVE_EVERY + 2}
    if stage == "rl_checkpoint":
        most |= {"rollout": 8 * (SAVE_EVERY + 2), "eval": 8}
    kinds = [list(most)[i % len(most)] for i in range(n)]
    rng.shuffle(kinds)
    return [(kind, rng.randint(1, most[kind])) for kind in kinds]


class Chain:
    """A store with the stages' inputs, and a worker that runs them."""

    def __init__(self, folder: Path, worker: subprocess.Popen[str]) -> None:
        self.folder, self._worker = folder, worker
        self.store = ArtifactStore.open(f"file://{folder}/store")
        self.made: dict[str, Artifact] = {}
        self._jobs = 0

    def spec(self, stage: str, config: dict[str, Any] | None = None) -> str:
        """URI of a new job's spec for `stage`, on the artifacts made so far."""
        self._jobs += 1
        section = STAGES[stage].config_type()
        checked = standing_alone(section.model_validate(config or CONFIGS[stage])) if section else None
        inputs = {name: self.made[name].as_parent() for name in STAGES[stage].needs(checked)}
        spec = StageSpec(
            stage=stage, store=self.store.uri, profile="kill", inputs=inputs,
            config=checked and checked.model_dump(mode="json"),
            code=CODE, run_id=f"run-{self._jobs}", step_key=stage,
        )  # fmt: skip
        job = self.store.job(spec.run_id, stage, 1)
        assert job.create_json("spec.json", spec.model_dump(mode="json"))
        return f"{job.uri}/spec.json"

    def start(self, spec: str, point: Point | None = None, journal: str = "/dev/null", ranks: int = 1) -> int:
        """Run a stage to its end or its death; the exit code, negative for a signal."""
        order = {"spec": spec, "journal": journal, "point": point, "ranks": ranks}
        assert self._worker.stdin and self._worker.stdout
        self._worker.stdin.write(json.dumps(order) + "\n")
        self._worker.stdin.flush()
        return json.loads(self._worker.stdout.readline())["exit"]

    def make(self, stage: str, config: dict[str, Any] | None = None, ranks: int = 1) -> Artifact:
        """The artifact of an undisturbed run; the first of its stage is the one that later stages read."""
        code = self.start(self.spec(stage, config), ranks=ranks)
        assert code == 0, f"{stage} ended with exit code {code}"
        found = self.store.latest(stage)
        assert found is not None
        self.made.setdefault(stage, found)
        return found

    def kill(
        self, stage: str, at: Sequence[Point], ranks: tuple[int, ...] = (1,), config: dict[str, Any] | None = None
    ) -> Outcome:
        """Kill one run of `stage` at each point in turn, let it end, and compare it with an undisturbed one.

        Its starts take the numbers of `ranks` in turn; the undisturbed run has the first of them.
        """
        spec = self.spec(stage, config)
        journal = self.folder / f"{self._jobs}.journal"
        undisturbed = self.make(stage, config, ranks[0])
        died, restarts, seen = 0, [], 0
        for i, point in enumerate([*at, None]):
            code = self.start(spec, point, str(journal), ranks[i % len(ranks)])
            died += code == -9
            rows = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
            if seen and len(rows) > seen:
                restarts.append(rows[seen][1])
            seen = len(rows)
            if code != -9:
                break
        assert code == 0, f"{stage} ended with exit code {code} instead of {point}"
        deaths = Path(f"{journal}.deaths")
        phases = Counter(deaths.read_text().split() if deaths.exists() else ())
        disturbed = self.store.latest(stage)
        assert disturbed is not None
        work = list(self.store.backend.keys("work/"))
        expected = len(_rows(undisturbed))
        pairs = list(zip(_rows(undisturbed), _rows(disturbed), strict=False))
        gaps = [abs(a[name] - b[name]) for a, b in pairs for name in COMPARED if name in a and name in b]
        return Outcome(
            stage, list(at), died, undisturbed.data_version == disturbed.data_version, max(gaps),
            all(a == b for a, b in pairs) and len(pairs) == expected, restarts, seen - expected, len(work),
            phases, ranks,
        )  # fmt: skip


def _rows(artifact: Artifact) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in artifact.record("metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in ("step", *COMPARED) if name in row} for row in rows]


@contextmanager
def chain(folder: Path) -> Iterator[Chain]:
    """A chain in `folder`, with its data sets and tokenizer made."""
    env = os.environ | {"AQUARAT_CACHE": str(folder / "cache"), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    (folder / "tmp").mkdir()
    env |= {"GLOO_SOCKET_IFNAME": "lo", "TMPDIR": str(folder / "tmp")}
    command = [sys.executable, "-m", "benchmarks.kill.worker"]
    with (
        (folder / "worker.log").open("w") as log,
        subprocess.Popen(
            command, cwd=REPO_ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as worker,
    ):
        try:
            made = Chain(folder, worker)
            for stage in ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens"):
                made.make(stage)
            yield made
        finally:
            assert worker.stdin
            worker.stdin.close()
