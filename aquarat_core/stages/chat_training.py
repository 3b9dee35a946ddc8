"""Mid-training and SFT: the model of the stage before learns conversations.

Both are the same run on another mixture: mid-training learns every token, SFT what the assistant says.
"""

from __future__ import annotations

from collections.abc import Iterable

from aquarat_core.artifacts import Artifact
from aquarat_core.config import ChatTrainConfig
from aquarat_core.conversation import Conversation
from aquarat_core.data.conversations import read_conversations
from aquarat_core.data.packing import PackedConversations, pack_conversations
from aquarat_core.data.rows import PackedRows
from aquarat_core.model.checkpoint import load_checkpoint, save_checkpoint
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks.mixture import mix
from aquarat_core.tasks.registry import load_task
from aquarat_core.text.chat import render
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer
from aquarat_core.training.loop import train
from aquarat_core.training.samples import Samples, chat_prompts
from aquarat_core.training.session import training_session


def run_mid(ctx: StageContext) -> dict[str, Scalar]:
    """Train the model of `base_checkpoint` on the mid-training mixture."""
    return _run(ctx, ctx.inputs["base_checkpoint"])


def run_sft(ctx: StageContext) -> dict[str, Scalar]:
    """Train the model of `mid_checkpoint` on the SFT mixture."""
    return _run(ctx, ctx.inputs["mid_checkpoint"])


def _run(ctx: StageContext, parent: Artifact) -> dict[str, Scalar]:
    config: ChatTrainConfig = ctx.config
    task, dataset, chats = load_task("aqua"), ctx.inputs["aqua_dataset"], ctx.inputs["chat_datasets"]
    with training_session(ctx, config) as session:
        world = session.world
        model, tokenizer = load_checkpoint(parent.directory(), world.device, world.compute_dtype)
        T = model.config.sequence_len
        names = [e.name for e in config.mixture if e.name != task.name]
        sources = {name: read_conversations(chats.path(f"{name}.train.parquet")) for name in names}
        mixed = mix(config.mixture, task, task.examples(dataset.path, "train"), sources, config.seed)
        packed = _pack(mixed, tokenizer, T, config)
        questions = task.examples(dataset.path, "validation")
        validation = _pack((Conversation(e.id, e.conversation()) for e in questions), tokenizer, T, config)
        if ctx.rank == 0:
            for said in filter(None, (_left_out("training", packed, T), _left_out("validation", validation, T))):
                ctx.log(said)
        rows = PackedRows(packed.ids, packed.mask.astype(bool))
        held_out = PackedRows(validation.ids, validation.mask.astype(bool))
        prompts = chat_prompts(config.samples.prompts, questions, tokenizer)
        samples = Samples(config.samples, model, tokenizer, prompts, "<|assistant_end|>", session.log, ctx)
        summary = train(session, model, rows, held_out, tokenizer.token_bytes(), (samples,))
        if ctx.rank == 0:
            save_checkpoint(ctx.outdir, model, parent.path(TOKENIZER_FILE))
    return {
        **summary,
        "conversations": packed.kept,
        "too_long": packed.too_long,
        "padding_share": packed.padding,
        "rows": len(rows),
        "ranks": world.size,
    }


def _left_out(what: str, packed: PackedConversations, T: int) -> str | None:
    """The line that says how many conversations are not used, and why; None if all are."""
    if not packed.too_long:
        return None
    return (
        f"{packed.too_long:,} of {packed.kept + packed.too_long:,} {what} conversations are left out: they are longer "
        f"than a row of {T + 1:,} tokens (model.sequence_len + 1)"
    )


def _pack(
    conversations: Iterable[Conversation], tokenizer: Tokenizer, T: int, config: ChatTrainConfig
) -> PackedConversations:
    rendered = (render(tokenizer, c.messages, config.loss_on) for c in conversations)
    bos = tokenizer.special("<|bos|>")
    return pack_conversations(rendered, T, bos, tokenizer.vocab_size)
