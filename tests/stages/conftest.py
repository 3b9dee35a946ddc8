"""Artifacts to feed a stage and the context that it runs in, as the stage runner makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.config import standing_alone
from aquarat_core.conversation import Conversation
from aquarat_core.data.conversations import write_conversations
from aquarat_core.stages.base import StageContext, StageSpec
from aquarat_core.stages.registry import STAGES
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.aqua.synthetic import generate_questions
from aquarat_core.tasks.word_problems import generate_drills, generate_text

CODE = CodeVersion(version="c0de" * 16, commit="ab" * 20, dirty=True)
ALONE = {"nproc": 1, "device": "cpu", "dtype": "float32"}


class Bench:
    """A store, and stages run on it in this process."""

    def __init__(self, store: ArtifactStore, scratch: Path) -> None:
        self.store, self.scratch, self.runs = store, scratch, 0

    def spec(self, stage: str, config: dict[str, Any] | None, **inputs: Artifact) -> StageSpec:
        return StageSpec(
            stage=stage, store=self.store.uri, profile="unit", config=config, code=CODE, run_id="run-1",
            inputs={name: a.as_parent() for name, a in inputs.items()}, step_key=stage,
        )  # fmt: skip

    def context(self, stage: str, config: dict[str, Any] | None, **inputs: Artifact) -> StageContext:
        """The context of a run; its messages are kept in the list `sent`."""
        self.runs += 1
        out, records = (self.scratch / f"{stage}-{self.runs}-{kind}" for kind in ("content", "records"))
        out.mkdir(parents=True)
        records.mkdir()
        section = STAGES[stage].config_type()
        typed = standing_alone(section.model_validate(config)) if section else None
        spec = self.spec(stage, typed and typed.model_dump(), **inputs)
        return StageContext(spec, typed, inputs, out, records)

    def publish(self, asset: str, directory: Path, records: Path | None = None) -> Artifact:
        return self.store.publish(
            asset=asset, kind=STAGES[asset].kind, directory=directory, records=records, config={}, profile="unit",
            code=CODE, parents=(), metrics={}, seeds={}, run_id="run-1",
        )  # fmt: skip

    def make(self, asset: str, write: Callable[[Path], None]) -> Artifact:
        """An artifact of what `write` leaves in a folder."""
        folder = self.scratch / f"{asset}-made"
        folder.mkdir(parents=True)
        write(folder)
        return self.publish(asset, folder)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AQUARAT_CACHE", str(folder / "cache"))
        patch.setenv("WANDB_MODE", "disabled")
        yield Bench(ArtifactStore.open(f"file://{folder}/store"), folder / "scratch")


@pytest.fixture(scope="module")
def data(bench: Bench) -> dict[str, Artifact]:
    """Small `aqua_dataset`, `chat_datasets` and `pretrain_text`."""

    def aqua(folder: Path) -> None:
        write_questions(folder / "train.parquet", generate_questions(200, seed=1, max_level=1))
        write_questions(folder / "validation.parquet", generate_questions(20, seed=2, max_level=1, held_out=True))

    def chats(folder: Path) -> None:
        drills = [Conversation(f"drill-{i}", m) for i, m in enumerate(generate_drills(100, seed=3, max_level=1))]
        write_conversations(folder / "drills.train.parquet", drills)

    def text(folder: Path) -> None:
        pq.write_table(pa.table({"text": generate_text(300, seed=4, max_level=1)}), folder / "train-00000.parquet")
        pq.write_table(pa.table({"text": generate_text(50, seed=5, max_level=1)}), folder / "validation.parquet")

    makers = {"aqua_dataset": aqua, "chat_datasets": chats, "pretrain_text": text}
    return {asset: bench.make(asset, write) for asset, write in makers.items()}
