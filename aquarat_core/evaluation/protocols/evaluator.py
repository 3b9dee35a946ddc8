"""A checkpoint on the ranks of a stage, asked under any protocol, and bits per byte of text."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aquarat_core.config import EvalConfig
from aquarat_core.config.evaluation import Asked
from aquarat_core.config.protocols import EvalProtocol
from aquarat_core.data.packing import pack_documents
from aquarat_core.data.rows import PackedRows
from aquarat_core.errors import UsageError
from aquarat_core.evaluation.protocols.generating import greedy, sampled
from aquarat_core.evaluation.protocols.rotating import rotated
from aquarat_core.evaluation.protocols.scoring import continuations, cued, letters
from aquarat_core.evaluation.protocols.subject import Subject, Tell
from aquarat_core.evaluation.records import Record
from aquarat_core.model.bits_per_byte import score_rows
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.runtime.distributed import World, distributed_world
from aquarat_core.tasks.task import Example, Task

BPB_ROWS_PER_PASS = 8
Ask = Callable[[Subject, Task[Any], Sequence[Example[Any]], Asked, Tell | None], list[Record]]
PROTOCOLS: dict[EvalProtocol, Ask] = {
    "greedy": greedy,
    "sampled": sampled,
    "letters": letters,
    "continuations": continuations,
    "cued": cued,
    "rotated": rotated,
}


class Evaluator:
    """One checkpoint on the ranks of an eval stage."""

    def __init__(self, checkpoint: Path, config: EvalConfig, world: World) -> None:
        self.config, self.world = config, world
        self.model, self.tokenizer = load_checkpoint(checkpoint, world.device, world.compute_dtype)
        self.subject = Subject(self.model, self.tokenizer, config.batch_rows)

    def ask(
        self, asked: Asked, task: Task[Any], examples: Sequence[Example[Any]], tell: Tell | None = None
    ) -> list[Record]:
        """The records of an evaluation, in the order of the examples and of their samples, on rank 0; none elsewhere.

        `tell` is called with the number of examples answered so far, as far as this rank knows it.
        """
        check_supported(task, asked.protocol)
        mine = self.world.shard(list(examples))
        told: Tell | None = tell and (lambda done: tell(min(len(examples), done * len(examples) // (len(mine) or 1))))
        if told is not None and asked.samples > 1:
            per_example = told
            told = lambda done: per_example(done // asked.samples)  # noqa: E731
        records = PROTOCOLS[asked.protocol](self.subject, task, mine, asked, told) if mine else []
        named = [asdict(replace(r, evaluation=asked.name, protocol=asked.protocol)) for r in records]
        place = {e.id: i for i, e in enumerate(examples)}
        gathered = [Record.of(fields) for fields in self.world.gather_to_rank0(named)]
        return sorted(gathered, key=lambda r: (place[r.id], r.sample))

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


def check_supported(task: Task[Any], protocol: EvalProtocol) -> None:
    """Raises `UsageError` for a protocol that the task does not support."""
    if protocol not in task.protocols:
        raise UsageError(
            f"the task {task.name} cannot be evaluated under protocol {protocol!r}: it supports "
            f"{', '.join(task.protocols)}"
        )
