"""Mid-training and SFT: trains the previous stage's model on conversations and, in mid-training, on documents.

They only differ in their mixture and loss mask: mid-training learns every token, SFT only the assistant's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact
from aquarat_core.config import ChatTrainConfig
from aquarat_core.config.task_use import nothing_learned
from aquarat_core.data.mixed_documents import holds_documents
from aquarat_core.data.packed_files import open_rows
from aquarat_core.errors import StageError
from aquarat_core.model.checkpoint import load_checkpoint, save_checkpoint
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.chat_rows import Packed, documents_said, pack, too_long_said
from aquarat_core.stages.decontamination import protected_questions, record_left_out
from aquarat_core.stages.task_inputs import task_input
from aquarat_core.tasks.decontamination import Contaminated, contaminated
from aquarat_core.tasks.mixture import Source, StoredConversations, StoredDocuments, mix, whole
from aquarat_core.tasks.registry import OTHER_DATASET, TASKS
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer
from aquarat_core.training.loop import train
from aquarat_core.training.samples import QUESTIONS, Samples, chat_prompts
from aquarat_core.training.session import training_session

TRAINING, VALIDATION = "training", "validation"


def run_mid(ctx: StageContext) -> dict[str, Scalar]:
    """Train the model of `base_checkpoint` on the mid-training mixture."""
    return _run(ctx, ctx.inputs["base_checkpoint"])


def run_sft(ctx: StageContext) -> dict[str, Scalar]:
    """Train the model of `mid_checkpoint` on the SFT mixture."""
    return _run(ctx, ctx.inputs["mid_checkpoint"])


def _run(ctx: StageContext, parent: Artifact) -> dict[str, Scalar]:
    config: ChatTrainConfig = ctx.config
    judged = task_input(ctx, config.validation_task)
    held_out = judged.source(judged.choice_split(config.validation_split))
    with training_session(ctx, config) as session, scratch_folder("packed") as folder:
        world = session.world
        model, tokenizer = load_checkpoint(parent.directory(), world.device, world.compute_dtype)
        T = model.config.sequence_len
        made = world.once_per_host(lambda: _prepare(ctx, held_out, tokenizer, T, folder))
        packed = {split: Packed(**made[split]) for split in (TRAINING, VALIDATION)}
        for split, what in packed.items():
            for line in (*documents_said(split, what), *too_long_said(split, what, T)):
                ctx.log(line)
        rows, validation = (open_rows(Path(made["folder"]), split, T, tokenizer.vocab_size) for split in packed)
        prompts = chat_prompts(config.samples.prompts, list(islice(held_out, QUESTIONS)), tokenizer)
        samples = Samples(config.samples, model, tokenizer, prompts, session.log, ctx)
        summary = train(session, model, rows, validation, tokenizer.token_bytes(), (samples,))
        if ctx.rank == 0:
            save_checkpoint(ctx.outdir, model, parent.path(TOKENIZER_FILE))
    left_out = record_left_out(ctx, [Contaminated(**row) for row in made["left_out"]], _named(config))
    return {**summary, **packed[TRAINING].metrics(), "rows": len(rows), "ranks": world.size, **left_out}


def _prepare(ctx: StageContext, held_out: Source, tokenizer: Tokenizer, T: int, folder: Path) -> dict[str, Any]:
    """Write the packed rows of both splits to `folder`; returns the folder, the result of `pack` for each, and the
    rows that were left out because they contain a held-out question."""
    config: ChatTrainConfig = ctx.config
    sources, numbers, listed = _sources(ctx), dict[str, frozenset[int]](), list[Contaminated]()
    if protected := protected_questions(ctx):
        # A name that no source has is refused by `mix`.
        named = {name: sources[name] for name in _named(config) if name in sources}
        numbers, listed = contaminated(protected, named, _limits(config))
    mixed = {TRAINING: mix(config.mixture, sources, config.seed, numbers), VALIDATION: whole(held_out)}
    made = {split: pack(mixture, tokenizer, T, config, folder, split) for split, mixture in mixed.items()}
    packed = {split: found.to_json() for split, found in made.items()}
    return {"folder": str(folder), "left_out": [asdict(row) for row in listed], **packed}


def _named(config: ChatTrainConfig) -> list[str]:
    """The sources of the mixture, each once."""
    return list(dict.fromkeys(entry.name for entry in config.mixture))


def _limits(config: ChatTrainConfig) -> dict[str, int | None]:
    """The number of clean rows that the mixture needs from the beginning of each source; None if it needs all."""
    limits: dict[str, int | None] = {}
    for entry in config.mixture:
        before = limits.get(entry.name, 0)
        limits[entry.name] = None if before is None or entry.limit is None else max(before, entry.skip + entry.limit)
    return limits


def _sources(ctx: StageContext) -> Mapping[str, Source]:
    """The sources that the mixture can name: all of `chat_datasets`, and the examples of the tasks that it names.

    Raises `StageError` for documents in a mixture of which only the assistant's words are learned.
    """
    config: ChatTrainConfig = ctx.config
    chats, ending = ctx.inputs.get(OTHER_DATASET), ".train.parquet"
    files = {f.path: chats.path(f.path) for f in chats.manifest.files if f.path.endswith(ending)} if chats else {}
    named = _named(config)
    tasks = {*named} & {*TASKS, *config.definitions}
    found: dict[str, Source] = {name: task_input(ctx, name).source("train") for name in sorted(tasks)}
    for file, path in files.items():
        if (name := file.removesuffix(ending)) in tasks:
            continue
        # What the mixture does not name is not read.
        documents = name in named and holds_documents(path)
        if documents and config.loss_on != "all":
            raise StageError(nothing_learned(name, ctx.spec.stage))
        found[name] = StoredDocuments(path) if documents else StoredConversations(path)
    return found
