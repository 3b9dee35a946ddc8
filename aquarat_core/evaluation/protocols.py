"""How a checkpoint is asked: greedy rationale with strict parsing, and bits per byte of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from aquarat_core.config import EvalConfig
from aquarat_core.data.packing import pack_documents
from aquarat_core.evaluation.records import Record
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.tools import Tool, calculator
from aquarat_core.tasks.aqua.question import Question, prompt
from aquarat_core.tasks.choice import parse_answer
from aquarat_core.text.chat import render_prompt
from aquarat_core.text.tokenizer import Tokenizer
from aquarat_core.training.batches import PackedRows
from aquarat_core.training.checkpoint import load_checkpoint
from aquarat_core.training.distributed import World, distributed_world
from aquarat_core.training.scoring import score_rows

BPB_ROWS_PER_PASS = 8
ORDER_TOKENS = 8
"""By how many tokens a prompt may grow when its options change places."""


class Evaluator:
    """One checkpoint on the ranks of an eval stage."""

    def __init__(self, checkpoint: Path, config: EvalConfig, world: World) -> None:
        self.config, self.world = config, world
        self.model, self.tokenizer = load_checkpoint(checkpoint, world.device, world.compute_dtype)

    def greedy_answers(self, questions: Sequence[Question], tell: Callable[[int], None] | None = None) -> list[Record]:
        """The model's most likely answer to each question, in the order given, on rank 0; nothing elsewhere.

        `tell` is told how many of them have one, as far as this rank can know.
        """
        engine = Engine(self.model, self.tokenizer.special("<|assistant_end|>"))
        mine = self.world.share(list(questions))
        tool = calculator(self.tokenizer) if self.config.calculator else None
        told = tell and (lambda done: tell(done * len(questions) // len(mine)))
        records = answer(engine, self.tokenizer, mine, self.config.max_new_tokens, self.config.batch_rows, tool, told)
        place = {q.id: i for i, q in enumerate(questions)}
        gathered = [Record(**fields) for fields in self.world.gather([asdict(r) for r in records])]
        return sorted(gathered, key=lambda r: place[r.id])

    def bits_per_byte(self, texts: Iterable[str]) -> float:
        """Bits per byte of up to `config.bpb_tokens` tokens of these documents, the same on every rank."""
        T, bos = self.model.config.sequence_len, self.tokenizer.special("<|bos|>")
        limit = max(1, self.config.bpb_tokens // T)
        packed = pack_documents(self._encode(texts, (limit + 1) * (T + 1)), T, bos, self.tokenizer.vocab_size)
        token_bytes = self.tokenizer.token_bytes()
        rows = PackedRows(packed.ids)
        return score_rows(self.model, rows, limit, BPB_ROWS_PER_PASS, token_bytes, self.world)["val/bpb"]

    def _encode(self, texts: Iterable[str], n_tokens: int) -> Iterator[list[int]]:
        """The documents' ids until there are `n_tokens` of them: a validation shard is far longer than needed."""
        for text in texts:
            if n_tokens <= 0:
                return
            ids = self.tokenizer.encode(text)
            n_tokens -= len(ids)
            yield ids


@contextmanager
def evaluator(checkpoint: Path, config: EvalConfig) -> Iterator[Evaluator]:
    """The checkpoint's evaluator on the processes torchrun started."""
    with distributed_world(config.launch) as world:
        yield Evaluator(checkpoint, config, world)


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    max_new_tokens: int,
    max_rows: int = 256,
    tool: Tool | None = None,
    tell: Callable[[int], None] | None = None,
) -> list[Record]:
    """Greedy answers of `engine` to `questions`, with `tool` if there is one, judged by the strict parser.

    A question that leaves no room for `max_new_tokens` in the model's context is not asked and counts as wrong.
    """
    if not questions:
        return []
    texts = [prompt(q) for q in questions]
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": text}]) for text in texts]
    room = engine.model.config.sequence_len - max_new_tokens
    asked = [ids for ids in prompts if len(ids) <= room]
    found = iter(
        engine.generate(
            asked, [[0]] * len(asked), max_new_tokens, temperature=0.0, max_rows=max_rows, tool=tool, tell=tell
        )
        if asked
        else ()
    )
    records = []
    for q, text, ids in zip(questions, texts, prompts, strict=True):
        if len(ids) > room:
            records.append(Record(q.id, text, q.correct, "", None, False, 0, False, "too_long"))
            continue
        (completion,) = next(found)
        said = tokenizer.decode(completion.said)
        parsed = parse_answer(said) if completion.ended else None
        records.append(
            Record(
                id=q.id,
                question=text,
                gold=q.correct,
                completion=said,
                parsed=parsed,
                correct=parsed == q.correct,
                n_tokens=len(completion.said),
                truncated=not completion.ended,
                stop_reason="stop" if completion.ended else "length",
            )
        )
    return records


def fitting(
    questions: Sequence[Question], tokenizer: Tokenizer, max_new_tokens: int, sequence_len: int
) -> list[Question]:
    """Those of the questions that leave room for `max_new_tokens`, in any order of their options."""
    room = sequence_len - max_new_tokens - ORDER_TOKENS
    return [q for q in questions if len(render_prompt(tokenizer, [{"role": "user", "content": prompt(q)}])) <= room]


def accuracy(
    engine: Engine,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    max_new_tokens: int,
    world: World,
    tool: Tool | None = None,
) -> float:
    """Share of `questions` answered right, over all ranks."""
    records = answer(engine, tokenizer, world.share(list(questions)), max_new_tokens, tool=tool)
    counts = torch.tensor([sum(r.correct for r in records), len(records)], dtype=torch.float64, device=world.device)
    right, n = world.sum(counts).tolist()
    return right / n
