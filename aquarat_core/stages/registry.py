"""Which stages there are, what feeds them and which code they are made of. Imports nothing heavy.

The Dagster assets, the stage runner and the command line all read this one table.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from aquarat_core.config import Profile

CORE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: the function that runs it, its inputs, and the sources its code version is the hash of."""

    name: str
    kind: str
    description: str
    inputs: tuple[str, ...]
    section: str | None
    """Field of `Profile` that configures it; None for a stage without settings."""
    entry: str
    """`module:function`, imported only where the stage runs."""
    sources: tuple[str, ...]
    """Files and packages under `aquarat_core/` whose bytes decide the code version."""
    distributed: bool = False
    """True when torchrun starts it, on `launch.nproc` ranks."""

    def load(self) -> Callable[..., dict[str, Any]]:
        """The stage function, `run(ctx) -> summary metrics`."""
        module, function = self.entry.split(":")
        return getattr(importlib.import_module(module), function)

    def config(self, profile: Profile) -> BaseModel | None:
        """This stage's section of `profile`."""
        return getattr(profile, self.section) if self.section else None

    def config_type(self) -> type[BaseModel] | None:
        """The pydantic type of its section."""
        return Profile.model_fields[self.section].annotation if self.section else None


_HUB = ("data/__init__.py", "errors.py", "data/hub.py", "data/hub_cache.py", "data/foreign.py",
        "data/foreign_reader.py")  # fmt: skip
_RUNNER = ("config", "conversation.py", "errors.py", "plain_text.py", "data/parquet.py",
           "stages/base.py", "stages/run.py", "stages/registry.py", "artifacts",
           "training/stopped.py")  # fmt: skip
_TEXT = ("text", "../rust/src")
_ROWS = ("data/packing.py", "data/tokens.py")
# The rollouts are for the samples of text that every training stage takes.
_TRAIN = (*_RUNNER, *_TEXT, *_ROWS, "model", "optim", "training", "rollout", "tasks")
_CHAT = (*_TRAIN, "data/conversations.py", "stages/chat_training.py")
_ROLLOUT = ("model", "rollout", "training", *_ROWS, "evaluation/protocols.py", "evaluation/records.py",
            "tasks", *_TEXT)  # fmt: skip


def _eval_report(stage: str, parent: str | None) -> Stage:
    scored = (f"{stage}_checkpoint", "aqua_dataset", *(("pretrain_text",) if stage in ("base", "mid") else ()))
    return Stage(
        name=f"{stage}_eval_report",
        kind="report",
        description=f"Accuracy of the {stage} checkpoint on aqua_dataset's questions, interval, baselines, records.",
        inputs=(*scored, *((f"{parent}_eval_report",) if parent else ())),
        section="eval_report",
        entry="aquarat_core.stages.eval_report:run",
        sources=(*_RUNNER, "data/documents.py", *_ROLLOUT, "evaluation", "stages/eval_report.py"),
        distributed=True,
    )


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "aqua_dataset", "dataset",
            "Questions in AQuA-RAT's form, cleaned: five options, a rationale and the right letter.",
            (), "aqua_dataset", "aquarat_core.stages.aqua_dataset:run",
            (*_RUNNER, *_HUB, "data/bad_rows.py",
             "tasks", "stages/aqua_dataset.py"),
        ),
        Stage(
            "chat_datasets", "dataset", "Conversations for mid-training and SFT, one file per source and split.",
            (), "chat_datasets", "aquarat_core.stages.chat_datasets:run",
            (*_RUNNER, *_HUB, "data/bad_rows.py", "data/identity.py", "data/conversations.py",
             "tasks", "stages/chat_datasets.py"),
        ),
        Stage(
            "pretrain_text", "dataset", "Documents for pretraining, with a pinned validation shard.",
            (), "pretrain_text", "aquarat_core.stages.pretrain_text:run",
            (*_RUNNER, *_HUB, "data/bad_rows.py", "data/documents.py", "tasks",
             "stages/pretrain_text.py"),
        ),
        Stage(
            "tokenizer", "tokenizer", "Byte-level BPE trained on the pretraining text and the conversations.",
            ("pretrain_text", "chat_datasets", "aqua_dataset"), "tokenizer", "aquarat_core.stages.tokenizer:run",
            (*_RUNNER, *_TEXT, "data/documents.py", "data/conversations.py", "tasks", "stages/tokenizer.py"),
        ),
        Stage(
            "pretrain_tokens", "dataset", "The pretraining text as token ids, memory-mapped by those who train on it.",
            ("pretrain_text", "tokenizer"), None, "aquarat_core.stages.pretrain_tokens:run",
            (*_RUNNER, *_TEXT, "data/documents.py", *_ROWS, "stages/pretrain_tokens.py"),
        ),
        Stage(
            "base_checkpoint", "checkpoint", "The language model after pretraining on plain text.",
            ("tokenizer", "pretrain_tokens"), "base_checkpoint", "aquarat_core.stages.base_checkpoint:run",
            (*_TRAIN, "stages/base_checkpoint.py"), distributed=True,
        ),
        Stage(
            "mid_checkpoint", "checkpoint", "The base model after mid-training on conversations and problems.",
            ("base_checkpoint", "chat_datasets", "aqua_dataset"), "mid_checkpoint",
            "aquarat_core.stages.chat_training:run_mid", _CHAT, distributed=True,
        ),
        Stage(
            "sft_checkpoint", "checkpoint", "The mid-trained model after supervised fine-tuning on rationales.",
            ("mid_checkpoint", "chat_datasets", "aqua_dataset"), "sft_checkpoint",
            "aquarat_core.stages.chat_training:run_sft", _CHAT, distributed=True,
        ),
        Stage(
            "rl_checkpoint", "checkpoint", "The SFT model after on-policy GRPO against the verified answer.",
            ("sft_checkpoint", "aqua_dataset"), "rl_checkpoint", "aquarat_core.stages.rl_checkpoint:run",
            (*_TRAIN, *_ROLLOUT, "rl", "stages/rl_checkpoint.py"), distributed=True,
        ),
        _eval_report("base", None),
        _eval_report("mid", "base"),
        _eval_report("sft", "mid"),
        _eval_report("rl", "sft"),
        Stage(
            "pipeline_report", "report", "One page over the whole chain: curves, accuracies, paired tests, lineage.",
            (*(f"{s}_checkpoint" for s in ("base", "mid", "sft", "rl")),
             *(f"{s}_eval_report" for s in ("base", "mid", "sft", "rl"))),
            None, "aquarat_core.stages.pipeline_report:run",
            (*_RUNNER, "evaluation", "tasks",
             "stages/pipeline_report.py"),
        ),
    )
}  # fmt: skip


def code_version(stage: Stage, config: BaseModel | None) -> str:
    """SHA-256 over the stage's sources and its config: what Dagster compares to tell stale from fresh."""
    digest = hashlib.sha256()
    for source in sorted(set(stage.sources)):
        for path in _files(CORE / source):
            digest.update(f"{path.relative_to(CORE.parent)}\0".encode() + path.read_bytes() + b"\0")
    digest.update(config.model_dump_json().encode() if config else b"null")
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    path = path.resolve()
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix in (".py", ".rs"))
    return [path] if path.is_file() else []
