"""How a checkpoint is evaluated: greedy completions graded by their task, and bits per byte of text."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from aquarat_core.config import EvalConfig
from aquarat_core.data.packing import pack_documents
from aquarat_core.data.rows import PackedRows
from aquarat_core.evaluation.records import Record
from aquarat_core.model.bits_per_byte import score_rows
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.tools import Tool, calculator
from aquarat_core.runtime.distributed import World, distributed_world
from aquarat_core.tasks.task import A, Example, Task
from aquarat_core.text.chat import render_prompt
from aquarat_core.text.tokenizer import Tokenizer

BPB_ROWS_PER_PASS = 8
ORDER_TOKENS = 8
"""By how many tokens a prompt may grow when its choices change places."""


class Evaluator:
    """One checkpoint on the ranks of an eval stage."""

    def __init__(self, checkpoint: Path, config: EvalConfig, world: World) -> None:
        self.config, self.world = config, world
        self.model, self.tokenizer = load_checkpoint(checkpoint, world.device, world.compute_dtype)

    def greedy_answers(
        self, task: Task[A], examples: Sequence[Example[A]], tell: Callable[[int], None] | None = None
    ) -> list[Record]:
        """The model's most likely answer to each example, in the order given, on rank 0; nothing elsewhere.

        `tell` is called with the number of answers so far, as far as this rank knows it.
        """
        engine = Engine(self.model, self.tokenizer.special("<|assistant_end|>"))
        mine = self.world.shard(list(examples))
        tool = calculator(self.tokenizer) if self.config.calculator else None
        told: Callable[[int], None] | None = tell and (lambda done: tell(done * len(examples) // len(mine)))
        budget, rows = self.config.max_new_tokens, self.config.batch_rows
        records = answer(engine, self.tokenizer, task, mine, budget, rows, tool, told)
        place = {e.id: i for i, e in enumerate(examples)}
        gathered = [Record(**fields) for fields in self.world.gather_to_rank0([asdict(r) for r in records])]
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
def evaluator(checkpoint: Path, config: EvalConfig) -> Generator[Evaluator]:
    """The checkpoint's evaluator on the processes torchrun started."""
    with distributed_world(config.launch) as world:
        yield Evaluator(checkpoint, config, world)


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    task: Task[A],
    examples: Sequence[Example[A]],
    max_new_tokens: int,
    max_rows: int = 256,
    tool: Tool | None = None,
    tell: Callable[[int], None] | None = None,
) -> list[Record]:
    """Greedy answers of `engine` to `examples`, with `tool` if there is one, graded by their task.

    An example that leaves no room for `max_new_tokens` in the model's context is not asked and counts as wrong.
    """
    if not examples:
        return []
    prompts = [render_prompt(tokenizer, e.messages) for e in examples]
    room = engine.model.config.sequence_len - max_new_tokens
    asked = [ids for ids in prompts if len(ids) <= room]
    found = iter(
        engine.generate(
            asked, [[0]] * len(asked), max_new_tokens, temperature=0.0, max_rows=max_rows, tool=tool, tell=tell
        )
        if asked
        else ()
    )
    completions = [None if len(ids) > room else next(found)[0] for ids in prompts]
    texts = ["" if c is None else tokenizer.decode(c.content) for c in completions]
    said = zip(examples, texts, completions, strict=True)
    grades = iter(task.grade_many([(e, text, c.ended) for e, text, c in said if c is not None]))
    records: list[Record] = []
    for example, text, completion in zip(examples, texts, completions, strict=True):
        if completion is None:
            records.append(Record(example.id, example.prompt, example.reference, "", None, False, 0, False, "too_long"))
            continue
        grade = next(grades)
        records.append(
            Record(
                id=example.id,
                question=example.prompt,
                gold=example.reference,
                completion=text,
                parsed=grade.answer,
                correct=grade.correct,
                n_tokens=len(completion.content),
                truncated=not completion.ended,
                stop_reason="stop" if completion.ended else "length",
            )
        )
    return records


def fitting(
    examples: Sequence[Example[A]], tokenizer: Tokenizer, max_new_tokens: int, sequence_len: int
) -> list[Example[A]]:
    """The examples that leave room for `max_new_tokens`, in any order of their choices."""

    def fits(example: Example[A]) -> bool:
        room = sequence_len - max_new_tokens - (ORDER_TOKENS if example.choices else 0)
        return len(render_prompt(tokenizer, example.messages)) <= room

    return [e for e in examples if fits(e)]


def accuracy(
    engine: Engine,
    tokenizer: Tokenizer,
    task: Task[A],
    examples: Sequence[Example[A]],
    max_new_tokens: int,
    world: World,
    tool: Tool | None = None,
) -> float:
    """Share of `examples` answered right, over all ranks."""
    records = answer(engine, tokenizer, task, world.shard(list(examples)), max_new_tokens, tool=tool)
    counts = torch.tensor([sum(r.correct for r in records), len(records)], dtype=torch.float64, device=world.device)
    right, n = world.totals(counts)
    return right / n
