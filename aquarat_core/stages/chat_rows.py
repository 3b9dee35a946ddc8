"""Packs a mixture of conversations into rows in files, and words the messages about those that are too long.

One process per host makes the files, and all processes map them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from aquarat_core.config import ChatTrainConfig
from aquarat_core.data.packed_files import write_rendered, write_rows
from aquarat_core.data.packing import MANY_LEFT_OUT, plan_conversations
from aquarat_core.runtime.memory import release_freed_memory, use_compact_arrow_memory
from aquarat_core.stages.base import Scalar
from aquarat_core.tasks.mixture import Mixture
from aquarat_core.text.batch_chat import ChatRenderer
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Packed:
    """Statistics about packing the conversations of one split."""

    kept: int
    trimmed: int
    """Number of kept conversations that lost their last turns."""
    too_long: int
    """Number of conversations left out because they are longer than a row."""
    padding: float
    """Share of padding in the rows' ids."""

    @property
    def too_long_share(self) -> float:
        return self.too_long / (self.kept + self.too_long)

    def to_json(self) -> dict[str, Scalar]:
        return asdict(self)

    def metrics(self) -> dict[str, Scalar]:
        """Metrics for the artifact that describe the packing."""
        return {
            "conversations": self.kept,
            "trimmed": self.trimmed,
            "too_long": self.too_long,
            "too_long_share": self.too_long_share,
            "padding_share": self.padding,
        }


def pack(mixture: Mixture, tokenizer: Tokenizer, T: int, config: ChatTrainConfig, folder: Path, name: str) -> Packed:
    """Write the mixture's rows of T + 1 ids to `folder`, for `open_rows` under `name`.

    Raises `DataError` if no conversation fits.
    """
    # The process would keep what was freed: here the memory of mixing, at the end that of packing, before it trains.
    release_freed_memory()
    use_compact_arrow_memory()
    renderer = ChatRenderer(tokenizer, T + 1, config.loss_on, config.too_long)
    rendered = write_rendered(folder, renderer.stream(mixture.turns()), tokenizer.vocab_size)
    plan = plan_conversations(rendered.lengths[mixture.order], T)
    write_rows(folder, name, rendered, mixture.order, plan, T, tokenizer.special("<|bos|>"), tokenizer.vocab_size)
    rendered.remove()
    packed = Packed(len(plan.order), int(rendered.trimmed[mixture.order].sum()), plan.too_long, plan.padding(T))
    del rendered, plan
    release_freed_memory()
    return packed


def too_long_said(what: str, packed: Packed, T: int) -> Iterator[str]:
    """Lines that say how many conversations do not fit and how they are treated; none if all fit."""
    n = packed.kept + packed.too_long
    row = f"a row of {T + 1:,} tokens (model.sequence_len + 1)"
    if packed.trimmed:
        share = f"{packed.trimmed / n:.1%}"
        yield f"{packed.trimmed:,} of {n:,} {what} conversations ({share}) lose their last turns: they do not fit {row}"
    if packed.too_long:
        share = f"{packed.too_long_share:.1%}"
        yield f"{packed.too_long:,} of {n:,} {what} conversations ({share}) are left out: they are longer than {row}"
    if packed.too_long_share > MANY_LEFT_OUT:
        yield (
            f"warning: {packed.too_long_share:.0%} of the {what} conversations are not used: to keep their first turns "
            "set too_long: trim, or train with a longer base_checkpoint.model.sequence_len"
        )
