"""A small chain of published checkpoints and eval reports, for the tests of reports; a checkpoint to evaluate."""

import json
import random
from pathlib import Path

import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.cli import main
from aquarat_core.config import EvalConfig
from aquarat_core.evaluation import page
from aquarat_core.evaluation import report as reports
from aquarat_core.evaluation.records import Record, write_records
from aquarat_core.evaluation.report import EvalReport, Evaluated
from aquarat_core.evaluation.summary import summarize
from aquarat_core.tasks.aqua.question import Question, permute, prompt, target
from aquarat_core.tasks.aqua.task import AquaTask
from tests.evaluation.shop import Run, Shop

CODE = CodeVersion(version="c0de" * 16, commit="ab" * 20, dirty=True)
CONFIG = EvalConfig(task="aqua", seed=30, max_new_tokens=96)
GRADER = reports.grader_version(AquaTask())
NASTY = "<script>alert('hi')</script> | **bold** ``` & </pre>"


def questions(n: int) -> list[Question]:
    rng = random.Random(5)
    made = []
    for i in range(n):
        a, b = rng.randint(2, 60), rng.randint(2, 60)
        options = tuple(str(a + b + d) for d in (0, 1, 2, 10, -1))
        made.append(Question(f"test-{i:05d}", f"What is {a} plus {b}?", options, f"{a} + {b} = {a + b}.", "A"))
    return [permute(q, CONFIG.seed) for q in made]


def curve(stage: str, n: int = 120) -> str:
    """A `metrics.jsonl` like the ones that training writes."""
    rng, rows = random.Random(stage), []
    for step in range(n):
        t = step / n
        row = {"step": step, "train/tokens_per_second": 9000.0}
        if stage == "rl":
            row |= {"rl/mean_reward": 0.3 + 0.4 * t + rng.gauss(0, 0.04), "rl/parse_rate": 0.9 + 0.1 * t}
            row |= {"rl/truncated_rate": 0.1 - 0.1 * t, "rl/kl_sequence_mean": 0.3 * t}
            row |= {"eval/accuracy": 0.31 + 0.38 * t} if step % 20 == 0 else {}
        else:
            row["train/loss"] = 1.2 + 2.5 * 2.7 ** (-5 * t) + rng.gauss(0, 0.06)
            row |= {"val/loss": row["train/loss"] + 0.05, "val/bpb": row["train/loss"] / 2.8} if step % 20 == 0 else {}
        rows.append(json.dumps(row))
    return "\n".join(rows) + "\n"


def answers(asked: list[Question], accuracy: float, parse_rate: float = 1.0, seed: int = 0) -> list[Record]:
    """Answers right with probability `accuracy`; a question easy for one seedless draw is easy for all."""
    records = []
    for i, q in enumerate(asked):
        ease = random.Random(f"{q.id}").random() * 0.9 + random.Random(f"{q.id} {seed}").random() * 0.1
        parsed = q.correct if ease < accuracy else "ABCDE"[(q.gold + 1 + i % 4) % 5]
        if random.Random(f"{q.id} {seed} parse").random() > parse_rate:
            parsed = None
        text = target(q) if parsed == q.correct else f"{q.rationale}\nAnswer: {parsed}" if parsed else NASTY
        records.append(
            Record(q.id, prompt(q), q.correct, text, parsed, parsed == q.correct, len(text) // 3, not parsed,
                   "stop" if parsed else "length")
        )  # fmt: skip
    return records


class Chain:
    """Base, mid, SFT and RL with accuracies given, published to a store."""

    CONFIG, CODE, NASTY = CONFIG, CODE, NASTY
    answers = staticmethod(answers)
    curve = staticmethod(curve)

    def __init__(self, store: ArtifactStore, scratch: Path, n: int = 400, source: str = "hub") -> None:
        self.store, self.scratch, self.asked = store, scratch, questions(n)
        self.aqua = self.publish(
            "aqua_dataset", "dataset", {"test.parquet": "x"}, metrics={"test_rows": n}, config={"source": source}
        )
        self.checkpoints: dict[str, Artifact] = {}
        self.reports: dict[str, Artifact] = {}

    def publish(
        self, asset: str, kind: str, files: dict[str, str | bytes], parents: tuple[Artifact, ...] = (),
        metrics: dict | None = None, records: dict[str, str] | None = None, run_id: str = "run-1",
        config: dict | None = None,
    ) -> Artifact:  # fmt: skip
        """Publish `files` and `records` as `asset`, added to what lies in its folders already."""
        outdir, extras_dir = self.folders(asset)
        for directory, contents in ((outdir, files), (extras_dir, records or {})):
            for name, content in contents.items():
                (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return self.store.publish(
            asset=asset, kind=kind, directory=outdir, records=extras_dir, config=config or {}, profile="unit",
            code=CODE, parents=tuple(p.as_parent() for p in parents), metrics=metrics or {}, seeds={"seed": 10},
            run_id=run_id,
        )  # fmt: skip

    def folders(self, asset: str) -> tuple[Path, Path]:
        outdir, extras_dir = self.scratch / f"{asset}-files", self.scratch / f"{asset}-records"
        outdir.mkdir(parents=True, exist_ok=True)
        extras_dir.mkdir(parents=True, exist_ok=True)
        return outdir, extras_dir

    def republish(self, stage: str) -> Artifact:
        """The report of `stage` as its folder is now."""
        return self.publish(f"{stage}_eval_report", "report", {}, (self.checkpoints[stage], self.aqua))

    def train(self, stage: str, parent: str | None = None, weights: str = "", run_id: str = "run-1") -> Artifact:
        parents = (self.checkpoints[parent],) if parent else ()
        self.checkpoints[stage] = self.publish(
            f"{stage}_checkpoint", "checkpoint", {"model.safetensors": f"{stage} {weights}"},
            (*parents, self.aqua), {"parameters": 1_234_567, "steps": 120, "tokens": 245_760},
            {"metrics.jsonl": curve(stage)}, run_id,
        )  # fmt: skip
        return self.checkpoints[stage]

    def evaluate(
        self, stage: str, records: list[Record], parent: str | None = None, config: EvalConfig = CONFIG
    ) -> EvalReport:
        """Build, compare, write and publish the report of `stage`; returns its content."""
        checkpoint, asset = self.checkpoints[stage], f"{stage}_eval_report"
        summary = summarize(records, "A", 0.2, "ABCDE")
        bpb = 1.2345 if stage in ("base", "mid") else None
        report = reports.build(asset, checkpoint, [self.aqua], config, "unit", CODE, GRADER, records, summary, bpb)
        if parent:
            report["comparison"] = reports.compare_with_parent(
                Evaluated(report, records), Evaluated.read(self.reports[parent])
            )
        outdir, extras_dir = self.folders(asset)
        write_records(outdir / "questions.parquet", records)
        rows = [json.loads(line) for line in curve(stage).splitlines()]
        page.write(outdir, extras_dir, report, page.Beside({"": records}, rows))
        inputs = (checkpoint, self.aqua, *([self.reports[parent]] if parent else []))
        self.reports[stage] = self.publish(asset, "report", {}, inputs, config=config.model_dump(mode="json"))
        return report


@pytest.fixture(scope="module")
def chain_class() -> type[Chain]:
    """For chains that several tests read."""
    return Chain


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """A store of its own with 400 questions in it."""
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    return Chain(ArtifactStore.open(f"file://{tmp_path}/store"), tmp_path / "scratch")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    return Shop(tmp_path)


@pytest.fixture
def run(shop: Shop, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error."""

    def ask(*arguments: str) -> tuple[int, str, str]:
        code = main(["eval", *arguments, "--store", shop.store.uri])
        return code, *capsys.readouterr()

    return ask
