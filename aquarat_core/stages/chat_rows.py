"""Packs a mixture of conversations and documents into rows in files, and words what is said about it.

One process per host makes the files, and all processes map them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aquarat_core.config import ChatTrainConfig
from aquarat_core.data.packed_files import RenderedFiles, write_rendered, write_rows
from aquarat_core.data.packing import MANY_LEFT_OUT, ConversationPlan, plan_conversations
from aquarat_core.runtime.memory import release_freed_memory, use_compact_arrow_memory
from aquarat_core.stages.base import Scalar
from aquarat_core.tasks.mixture import Mixture
from aquarat_core.text.batch_chat import ChatRenderer
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Packed:
    """Statistics about packing the conversations and documents of one split."""

    kept: int
    """Number of conversations in rows."""
    trimmed: int
    """Number of kept conversations that lost their last turns."""
    too_long: int
    """Number of conversations left out because they are longer than a row."""
    padding: float
    """Share of padding in the rows' ids."""
    documents: int = 0
    """Number of documents in rows; repeated ones count each time."""
    pieces: int = 0
    """Number of pieces that the documents were cut into."""
    document_tokens: int = 0
    """Number of ids of the documents, with the BOS of each piece."""
    document_share: float = 0.0
    """Their share of all ids that are not padding."""

    @property
    def too_long_share(self) -> float:
        return self.too_long / max(1, self.kept + self.too_long)

    def to_json(self) -> dict[str, Scalar]:
        return asdict(self)

    def metrics(self) -> dict[str, Scalar]:
        """Metrics for the artifact that describe the packing; those of documents only if there are any."""
        documents: dict[str, Scalar] = {
            "documents": self.documents,
            "document_pieces": self.pieces,
            "document_tokens": self.document_tokens,
            "document_share": self.document_share,
        }
        return {
            "conversations": self.kept,
            "trimmed": self.trimmed,
            "too_long": self.too_long,
            "too_long_share": self.too_long_share,
            "padding_share": self.padding,
            **(documents if self.documents else {}),
        }


def pack(mixture: Mixture, tokenizer: Tokenizer, T: int, config: ChatTrainConfig, folder: Path, name: str) -> Packed:
    """Write the mixture's rows of T + 1 ids to `folder`, for `open_rows` under `name`.

    Raises `DataError` if nothing fits.
    """
    # The process would keep what was freed: here the memory of mixing, at the end that of packing, before it trains.
    release_freed_memory()
    use_compact_arrow_memory()
    renderer = ChatRenderer(tokenizer, T + 1, config.loss_on, config.too_long)
    rendered = write_rendered(folder, renderer.stream(mixture.turns()), tokenizer.vocab_size)
    pieces = rendered.pieces_of(mixture.order)
    plan = plan_conversations(rendered.lengths[pieces], T)
    write_rows(folder, name, rendered, pieces, plan, T, tokenizer.special("<|bos|>"), tokenizer.vocab_size)
    rendered.remove()
    packed = _counted(rendered, mixture.order, pieces, plan, T)
    del rendered, plan, pieces
    release_freed_memory()
    return packed


def _counted(
    rendered: RenderedFiles,
    rows: npt.NDArray[np.int64],
    pieces: npt.NDArray[np.int64],
    plan: ConversationPlan,
    T: int,
) -> Packed:
    """Counts what the plan packed: the `pieces` of these rows of the mixture."""
    is_document, counts = rendered.is_document[rows], rendered.pieces[rows]
    n_pieces = int(counts[is_document].sum())
    tokens = int(rendered.lengths[pieces[np.repeat(is_document, counts)]].sum())
    return Packed(
        kept=len(plan.order) - n_pieces,
        trimmed=int(rendered.trimmed[pieces].sum()),
        too_long=plan.too_long,
        padding=plan.padding(T),
        documents=int((counts[is_document] > 0).sum()),
        pieces=n_pieces,
        document_tokens=tokens,
        document_share=tokens / plan.tokens,
    )


def documents_said(what: str, packed: Packed) -> Iterator[str]:
    """A line that says how much of a mixture is documents; none if there are none."""
    if packed.documents:
        yield (
            f"{packed.documents:,} {what} documents in {packed.pieces:,} pieces, {packed.document_tokens:,} tokens "
            f"({packed.document_share:.1%} of the mixture)"
        )


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
