"""The parts of the data bench that run in separate processes; WORK selects the part and its input. Not a bench itself.

`make` writes the data sets and a tokenizer. `nothing` is what ranks take that do nothing. `files` prepares the data as
SFT does, `objects` as it did before: every rank reads all conversations as Python objects and renders them one by one.
Both give CPU seconds of all ranks, and the hash of the packed rows where they are to be compared.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import resource
import sysconfig
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aquarat_core.config import ChatTrainConfig, LaunchConfig, MixtureEntry, TokenizerConfig
from aquarat_core.conversation import Conversation, Message, assistant_message, user_message
from aquarat_core.data.conversations import read_conversations, write_conversations
from aquarat_core.data.packed_files import open_rows
from aquarat_core.data.rows import PackedRows
from aquarat_core.runtime.distributed import World, distributed_world
from aquarat_core.stages.chat_rows import Packed, pack
from aquarat_core.tasks.mixture import StoredConversations, TaskExamples, mix
from aquarat_core.tasks.registry import load_task
from aquarat_core.text.chat import render
from aquarat_core.text.tokenizer import Tokenizer, train_tokenizer
from benchmarks.in_memory import pack_conversations

CHATS, QUESTIONS = "smoltalk", "aqua"
SEED = 10
IDLE_SECONDS = 3
ENTRIES = (MixtureEntry(name=QUESTIONS), MixtureEntry(name=CHATS))


# --- the data sets ----------------------------------------------------------------------------------------------------


def make(work: dict[str, Any]) -> dict[str, Any]:
    """Conversations and questions cut from the sources of Python's library, about as long as those of the Hub."""
    folder, n_chats, n_questions = Path(work["folder"]), work["chats"], work["questions"]
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sources]
    train_tokenizer(iter(texts), TokenizerConfig(vocab_size=work["vocabulary"])).save(folder / "tokenizer.json")
    draw = random.Random(1)
    cut = partial(_cut, draw, "\n".join(texts))
    chats = [Conversation(f"train-{i:06d}", _chat(draw, cut)) for i in range(n_chats)]
    write_conversations(folder / f"{CHATS}.train.parquet", chats)
    del chats
    _write_questions(folder / "train.parquet", n_questions, draw, cut)
    return {"texts": len(texts)}


def _cut(draw: random.Random, pool: str, median: int, spread: float) -> str:
    """A stretch of text whose length has a log-normal distribution."""
    length = max(1, int(median * math.exp(draw.gauss(0, spread))))
    start = draw.randrange(max(1, len(pool) - length))
    return pool[start : start + length]


def _chat(draw: random.Random, cut: Callable[[int, float], str]) -> list[Message]:
    """One to five pairs of messages, after a system message in one of ten."""
    messages: list[Message] = []
    if draw.random() < 0.1:
        messages.append({"role": "system", "content": cut(200, 0.5)})
    for _ in range(draw.randint(1, 5)):
        messages += [user_message(cut(180, 0.8)), assistant_message(cut(700, 0.8))]
    return messages


def _write_questions(path: Path, n: int, draw: random.Random, cut: Callable[[int, float], str]) -> None:
    from aquarat_core.tasks.aqua.files import write_questions
    from aquarat_core.tasks.aqua.question import LETTERS, Question

    def questions() -> Iterator[Question]:
        for i in range(n):
            options = tuple(str(draw.randint(1, 999)) for _ in LETTERS)
            yield Question(f"train-{i:06d}", cut(220, 0.4), options, cut(260, 0.6), draw.choice(LETTERS))

    write_questions(path, list(questions()))


# --- both ways --------------------------------------------------------------------------------------------------------


def files(work: dict[str, Any], world: World) -> tuple[Packed, PackedRows]:
    """As `stages.chat_training` does: one rank of the host writes the rows, all map them."""
    folder, tokenizer, T = Path(work["folder"]), _tokenizer(work), work["sequence_len"]

    def prepare() -> dict[str, Any]:
        sources = {
            CHATS: StoredConversations(folder / f"{CHATS}.train.parquet"),
            QUESTIONS: TaskExamples(load_task(QUESTIONS), folder.joinpath, "train"),
        }
        return pack(mix(ENTRIES, sources, SEED), tokenizer, T, ChatTrainConfig(), folder, "training").to_json()

    packed = Packed(**world.once_per_host(prepare))
    return packed, open_rows(folder, "training", T, tokenizer.vocab_size)


def objects(work: dict[str, Any], world: World) -> tuple[Packed, PackedRows]:
    """The same rows by way of one object for every message, on every rank, which took them as they are in memory."""
    del world
    folder, tokenizer, task = Path(work["folder"]), _tokenizer(work), load_task(QUESTIONS)
    rows = [
        Conversation(f"{CHATS}/{c.id}/0", c.messages) for c in read_conversations(folder / f"{CHATS}.train.parquet")
    ]
    examples = task.examples(folder.joinpath, "train")
    rows += [Conversation(f"{QUESTIONS}/{e.id}/0", e.conversation()) for e in examples]
    rows.sort(key=lambda c: hashlib.blake2b(f"{SEED}\0{c.id}".encode(), digest_size=16).digest())
    rendered = (render(tokenizer, c.messages) for c in rows)
    made = pack_conversations(rendered, work["sequence_len"], tokenizer.special("<|bos|>"), tokenizer.vocab_size)
    return Packed(made.kept, 0, made.too_long, made.padding), PackedRows(made.ids, made.mask.astype(bool))


def nothing(work: dict[str, Any], world: World) -> tuple[Packed, PackedRows]:
    """Ranks that have imported everything and met."""
    del work
    world.once_per_host(lambda: time.sleep(IDLE_SECONDS))
    return Packed(1, 0, 0, 0.0), PackedRows(np.zeros((1, 1), np.uint16), np.zeros((1, 1), np.bool_))


WAYS = {f.__name__: f for f in (files, objects, nothing)}


def _tokenizer(work: dict[str, Any]) -> Tokenizer:
    return Tokenizer.load(Path(work["folder"]) / "tokenizer.json")


def measure(work: dict[str, Any]) -> dict[str, Any] | None:
    """What rank 0 reports of one way."""
    with distributed_world(LaunchConfig(nproc=work["ranks"], device="cpu", dtype="float32")) as world:
        began, cpu = time.monotonic(), _cpu()
        packed, rows = WAYS[work["do"]](work, world)
        seconds, used = time.monotonic() - began, world.gather_to_rank0([_cpu() - cpu])
        if world.rank:
            return None
        # Mapped pages count as memory: all rows are read only where they are compared.
        digest = _hash(rows) if work["compared"] else None
        return {"seconds": seconds, "cpu": sum(used), "rows": digest, **packed.metrics()}


def _hash(rows: PackedRows) -> str:
    digest = hashlib.sha256()
    for part in (rows.ids, rows.mask):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    work = json.loads(os.environ["WORK"])
    measured = make(work) if work["do"] == "make" else measure(work)
    if measured is not None:
        Path(work["out"]).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
