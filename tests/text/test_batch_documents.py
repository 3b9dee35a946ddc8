"""Documents as tokens: cut into pieces that fit, with no token lost or doubled."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from aquarat_core.data.mixed_documents import Texts
from aquarat_core.data.packed_files import Rendered
from aquarat_core.data.packing import pack_documents
from aquarat_core.text.batch_chat import ChatRenderer
from aquarat_core.text.batch_documents import render_documents
from tests.factories import tokenizer

WORDS = ("apples", "12 + 7 = 19", "<|bos|>", "<|assistant_end|>", "é東\n", " A train goes", "$x^2$")


def texts(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(WORDS, k=draw.choice((1, 2, 9, 60)))) for _ in range(n)]


def pieces(rendered: Rendered) -> list[list[int]]:
    ends = np.cumsum(rendered.lengths)
    assert ends[-1] == len(rendered.ids) == len(rendered.mask) and rendered.mask.all()
    assert rendered.fits.all() and not rendered.trimmed.any()
    return [part.tolist() for part in np.split(rendered.ids, ends[:-1])]


@pytest.mark.parametrize("room", [2, 3, 17, 64, 1_000_000])
def test_every_token_of_every_text_is_in_exactly_one_piece(room: int) -> None:
    given, tok = texts(200, seed=1), tokenizer()
    rendered = render_documents(tok, Texts(pa.array(given)), room)
    found, bos = pieces(rendered), tok.special("<|bos|>")
    assert rendered.pieces is not None and rendered.pieces.sum() == len(found)
    special = set(tok.special_ids.values())
    at = 0
    for text, count in zip(given, rendered.pieces.tolist(), strict=True):
        own, at = found[at : at + count], at + count
        assert all(piece[0] == bos and len(piece) <= room for piece in own)
        assert all(len(piece) == room for piece in own[:-1]) and len(own[-1]) > 1
        ids = [i for piece in own for i in piece[1:]]
        assert ids == tok.encode(text) and tok.decode(ids) == text
        assert not special & set(ids), "the name of a special token in a text is text"


def test_pieces_are_those_of_pretraining() -> None:
    """Where a row of pretraining takes whole pieces, it has the same targets: each token of the text once."""
    tok, T = tokenizer(), 16
    ids = tok.encode("12 + 7 = 19, " * 40)[: 3 * T]
    text = tok.decode(ids)
    assert tok.encode(text) == ids
    packed = pack_documents([ids], T, tok.special("<|bos|>"), tok.vocab_size)
    assert pieces(render_documents(tok, Texts(pa.array([text])), T + 1)) == packed.ids.tolist()


def test_a_text_without_tokens_has_no_piece() -> None:
    rendered = render_documents(tokenizer(), Texts(pa.array(["", "a", ""])), 8)
    assert rendered.pieces is not None and rendered.pieces.tolist() == [0, 1, 0] and len(pieces(rendered)) == 1


def test_documents_come_in_order_whatever_thread_renders_them() -> None:
    given = texts(100, seed=2)
    parts = [Texts(pa.array(given[i : i + 7])) for i in range(0, 100, 7)]
    found = [p for part in ChatRenderer(tokenizer(), 20, "all").stream(iter(parts), threads=3) for p in pieces(part)]
    assert found == pieces(render_documents(tokenizer(), Texts(pa.array(given)), 20))
