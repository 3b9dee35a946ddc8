"""A store with a checkpoint that `aquarat eval` can be tried on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.example_files import write_examples
from aquarat_core.tasks.multiple_choice import choice_example
from tests.factories import guesser, reading_questions, reading_tokenizer

CODE = CodeVersion(version="1" * 64, commit=None, dirty=False)


class Shop:
    """A store with a checkpoint of the guesser, made from a data set of 10 reading questions."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, ArtifactStore.open(f"file://{folder}/store")
        self.aqua = self.aqua_dataset(10)
        self.sft = self.checkpoint("sft_checkpoint", self.aqua)

    def publish(self, asset: str, kind: str, made: Path, parents: tuple[Artifact, ...], **config: Any) -> Artifact:
        return self.store.publish(
            asset=asset, kind=kind, directory=made, config=config, profile="test", code=CODE, run_id="r", seeds={},
            parents=tuple(p.as_parent() for p in parents), metrics={},
        )  # fmt: skip

    def new_folder(self) -> Path:
        path = self.folder / f"made-{len(list(self.folder.iterdir()))}"
        path.mkdir()
        return path

    def aqua_dataset(self, n: int) -> Artifact:
        made = self.new_folder()
        for split in ("train", "validation", "test"):
            write_questions(made / f"{split}.parquet", reading_questions(0 if split == "validation" else n))
        return self.publish("aqua_dataset", "dataset", made, (), source="synthetic")

    def chat_datasets(self, tasks: dict[str, Any] | None = None, **rows: int) -> Artifact:
        made = self.new_folder()
        described = {}
        for name, n in rows.items():
            choices = [
                {
                    "question": f"Say{' B' * 16} {i}",
                    "options": ["one", "two", "five"],
                    "correct": i % 3,
                    "rationale": None,
                }
                for i in range(n)
            ]
            write_examples(made / f"{name}.test.parquet", [choice_example(f"t{i}", c) for i, c in enumerate(choices)])  # pyright: ignore[reportArgumentType]
            described[name] = {"rows_test": n, "letters": 3}
        (made / "sources.json").write_text(json.dumps(described))
        return self.publish("chat_datasets", "dataset", made, (), tasks=tasks or {})

    def checkpoint(self, asset: str, *parents: Artifact, without: str = "") -> Artifact:
        scratch, made = self.new_folder(), self.new_folder()
        reading_tokenizer().save(scratch / "tokenizer.json")
        save_checkpoint(made, guesser(), scratch / "tokenizer.json")
        if without:
            (made / without).unlink()
        return self.publish(asset, "checkpoint", made, parents, validation_task="aqua")


Run = Callable[..., tuple[int, str, str]]
"""Runs `aquarat eval` with arguments; its exit code, standard output and standard error."""
