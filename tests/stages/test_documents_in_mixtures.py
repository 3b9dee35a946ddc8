"""Documents beside conversations: tokenizer, mid-training and SFT on a mixture that has both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import checkpoint_store
from aquarat_core.conversation import Conversation
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.mixed_documents import Document, write_mixed_documents
from aquarat_core.data.packed_files import open_rows
from aquarat_core.errors import StageError
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.stages import chat_training
from aquarat_core.stages import tokenizer as tokenizer_stage
from aquarat_core.stages.base import StageContext
from aquarat_core.stages.chat_rows import documents_said, pack
from aquarat_core.tasks.aqua.files import read_questions
from aquarat_core.tasks.mixture import StoredConversations, StoredDocuments, mix
from aquarat_core.tasks.word_problems import generate_drills, generate_text
from aquarat_core.text.chat import render
from aquarat_core.training.optimizer import ShardedOptimizer
from tests.factories import random_model, tokenizer
from tests.stages.conftest import ALONE, Bench

pytestmark = pytest.mark.slow

T = 128
TALKS = [Conversation(f"drill-{i}", m) for i, m in enumerate(generate_drills(20, seed=3, max_level=1))]
PAGES = ["".join(text * (1 + i % 12)) for i, text in enumerate(generate_text(30, seed=4, max_level=1))]
PAGES[3] = "<|bos|><|assistant_end|> is how they write it."
TRAIN = {
    "launch": ALONE, "steps": 6, "batch_tokens": 4 * T, "micro_batch_rows": 4, "eval_every": 6, "eval_tokens": 4 * T,
    "mixture": [{"name": "pages", "repeat": 2}, {"name": "drills"}], "samples": {"every": None},
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(bench: Bench, data: dict[str, Artifact]) -> dict[str, Artifact]:
    """Conversations and documents, and an untrained model; one page holds a validation question of `aqua_dataset`."""
    (leaked, *_) = read_questions(data["aqua_dataset"].path("validation.parquet"))

    def chats(folder: Path) -> None:
        texts = [*PAGES, f"Forum\n{leaked.question}\nI say it is {leaked.options[0]}."]
        pages = [Document(f"train-{i:06d}", text) for i, text in enumerate(texts)]
        write_mixed_documents(folder / "pages.train.parquet", pages)
        write_conversations(folder / "drills.train.parquet", TALKS)

    def base(folder: Path) -> None:
        tokenizer().save(bench.scratch / "tokenizer.json")
        save_checkpoint(folder, random_model(tokenizer().vocab_size, sequence_len=T), bench.scratch / "tokenizer.json")

    bench.scratch = bench.scratch / "documents"
    made = {"chat_datasets": bench.make("chat_datasets", chats), "base_checkpoint": bench.make("base_checkpoint", base)}
    return made | {"aqua_dataset": data["aqua_dataset"]}


def mid(bench: Bench, inputs: dict[str, Artifact], **changes: Any) -> StageContext:
    return bench.context("mid_checkpoint", TRAIN | changes, **inputs)


def test_rows_hold_every_token_of_every_document(bench: Bench, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    tok, config = tokenizer(), mid(bench, inputs).config
    path = inputs["chat_datasets"].path
    sources = {
        "pages": StoredDocuments(path("pages.train.parquet")),
        "drills": StoredConversations(path("drills.train.parquet")),
    }
    made = pack(mix(config.mixture, sources, 1), tok, T, config, tmp_path, "x")
    rows = open_rows(tmp_path, "x", T, tok.vocab_size)
    bos, start = tok.special("<|bos|>"), tok.special("<|user_start|>")
    assert rows.mask is not None
    learned = [ids[mask].tolist() for ids, mask in zip(rows.ids, rows.mask, strict=True)]
    pieces = [piece for row in learned for piece in split_at(row, bos)]
    documents = [piece for piece in pieces if piece[1] != start]
    texts = [tok.encode(text) for text in (*PAGES, read(inputs)) for _ in range(2)]
    cut = [ids[at : at + T] for ids in texts for at in range(0, len(ids), T)]
    assert sorted(piece[1:] for piece in documents) == sorted(cut)
    talks = [render(tok, c.messages, "all")[0] for c in TALKS]
    assert sorted(piece for piece in pieces if piece[1] == start) == sorted(ids for ids in talks if len(ids) <= T + 1)
    assert (made.documents, made.pieces) == (62, len(cut)) and made.document_tokens == sum(map(len, cut)) + len(cut)
    assert made.kept + made.too_long == 20
    assert made.document_share == pytest.approx(made.document_tokens / rows.mask.sum())
    (said,) = documents_said("training", made)
    assert said.startswith(f"62 training documents in {len(cut)} pieces, {made.document_tokens:,} tokens (")
    (tmp_path / "again").mkdir()
    pack(mix(config.mixture, sources, 1), tok, T, config, tmp_path / "again", "x")
    assert np.array_equal(open_rows(tmp_path / "again", "x", T, tok.vocab_size).ids, rows.ids)


def read(inputs: dict[str, Artifact]) -> str:
    """The page with a held-out question."""
    return list(StoredDocuments(inputs["chat_datasets"].path("pages.train.parquet")).searched())[-1].text


def split_at(ids: list[int], bos: int) -> list[list[int]]:
    starts = [i for i, id in enumerate(ids) if id == bos]
    assert starts[0] == 0
    return [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]


def test_mid_training_counts_documents_and_leaves_out_those_with_a_held_out_question(
    bench: Bench, inputs: dict[str, Artifact]
) -> None:
    ctx = mid(bench, inputs, steps=1, decontaminate=["aqua"])
    metrics = chat_training.run_mid(ctx)
    listed = json.loads((ctx.extras_dir / "decontamination.json").read_text())
    pages = [row["row"] for row in listed if row["source"] == "pages"]
    assert "train-000030" in pages and metrics["contaminated_pages"] == len(pages)
    assert metrics["documents"] == 2 * (31 - len(pages)) and metrics["document_pieces"] > metrics["documents"]
    assert 0.5 < metrics["document_share"] < 1
    plain = chat_training.run_mid(mid(bench, inputs, steps=1, mixture=[{"name": "drills"}]))
    assert not any(name.startswith("document") for name in plain)
    alone = chat_training.run_mid(mid(bench, inputs, steps=1, mixture=[{"name": "pages"}]))
    assert (alone["documents"], alone["conversations"], alone["too_long_share"]) == (31, 0, 0.0)


def test_what_learns_the_assistant_alone_refuses_documents(bench: Bench, inputs: dict[str, Artifact]) -> None:
    chain = {name: artifact for name, artifact in inputs.items() if name != "base_checkpoint"}
    ctx = bench.context("sft_checkpoint", TRAIN, mid_checkpoint=inputs["base_checkpoint"], **chain)
    with pytest.raises(StageError, match=r"sft_checkpoint\.mixture names pages, .*or set sft_checkpoint\.loss_on to"):
        chat_training.run_sft(ctx)
    whole = bench.context(
        "sft_checkpoint", TRAIN | {"loss_on": "all", "steps": 1}, mid_checkpoint=inputs["base_checkpoint"], **chain
    )
    assert chat_training.run_sft(whole)["documents"] == 62


def test_a_mixture_with_documents_goes_on_after_a_crash_with_the_same_bytes(
    bench: Bench, inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"checkpoint": {"every_steps": 2}}
    undisturbed = mid(bench, inputs, **changes)
    chat_training.run_mid(undisturbed)
    work = checkpoint_store(open_backend(f"file://{tmp_path}/work"), "mid_checkpoint", {}, {}, "code")
    whole, seen, crash_at = ShardedOptimizer.step, list[int](), list[int]()

    def crash(self: ShardedOptimizer, step: int, *rest: Any) -> Any:
        if step in crash_at:
            raise RuntimeError("a crash")
        seen.append(step)
        return whole(self, step, *rest)

    monkeypatch.setattr(ShardedOptimizer, "step", crash)
    for at in (3, 5):
        crash_at[:] = [at]
        stopped = mid(bench, inputs, **changes)
        stopped.work = work
        with pytest.raises(RuntimeError, match="a crash"):
            chat_training.run_mid(stopped)
    crash_at.clear()
    resumed = mid(bench, inputs, **changes)
    resumed.work = work
    chat_training.run_mid(resumed)
    assert seen == [0, 1, 2, 2, 3, 4, 4, 5], "each start goes on from the last save"
    for path in undisturbed.outdir.iterdir():
        assert (resumed.outdir / path.name).read_bytes() == path.read_bytes()


def test_the_tokenizer_learns_from_documents_and_measures_them(
    bench: Bench, data: dict[str, Artifact], inputs: dict[str, Artifact]
) -> None:
    found = {}
    for name, chats in (("with", inputs["chat_datasets"]), ("without", data["chat_datasets"])):
        ctx = bench.context("tokenizer", {"vocab_size": 400}, **data | {"chat_datasets": chats})
        found[name] = tokenizer_stage.run(ctx), (ctx.outdir / "tokenizer.json").read_bytes()
    assert found["with"][0]["bytes_per_token_pages"] > 1.3 and "bytes_per_token_pages" not in found["without"][0]
    assert found["with"][1] != found["without"][1]
