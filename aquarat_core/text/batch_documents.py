"""Documents as tokens, in batches: cut into pieces that fit a row, each after a BOS.

The pieces are those of pretraining (`data.packing`): all but a document's last are full, and every token of the text is
the target of exactly one position. Text never becomes a special token.
"""

from __future__ import annotations

import numpy as np

from aquarat_core.data.mixed_documents import Texts
from aquarat_core.data.packed_files import Rendered
from aquarat_core.data.turns import edges
from aquarat_core.text.tokenizer import Tokenizer


def render_documents(tokenizer: Tokenizer, documents: Texts, room: int) -> Rendered:
    """The pieces of all documents, in order, with at most `room` ids each. Everything is learned."""
    tokens, offsets = tokenizer.encode_batch_to_numpy([documents.texts], threads=1)
    text_ids = np.diff(offsets)
    full = room - 1  # besides the BOS
    pieces = -(-text_ids // full)
    lengths = np.full(pieces.sum(), 1 + full, np.int64)
    ends, there = np.cumsum(pieces), pieces > 0
    lengths[ends[there] - 1] = 1 + (text_ids - (pieces - 1) * full)[there]
    starts = edges(lengths)[:-1]
    ids = np.empty(len(tokens) + len(lengths), tokens.dtype)
    is_text = np.ones(len(ids), np.bool_)
    is_text[starts] = False
    ids[starts] = tokenizer.special("<|bos|>")
    ids[is_text] = tokens
    every, none = np.ones(len(lengths), np.bool_), np.zeros(len(lengths), np.bool_)
    return Rendered(ids, np.ones(len(ids), np.uint8), lengths, every, none, pieces)
