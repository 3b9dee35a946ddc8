"""Packing: every token where it belongs, nothing lost that is not reported."""

from itertools import pairwise

import numpy as np
import pytest

from aquarat_core.data.packing import BUFFER, id_dtype, pack_documents, plan_conversations
from aquarat_core.errors import DataError
from benchmarks.in_memory import pack_conversations

BOS = 0
PAD = 0


def documents(n: int, longest: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 1_000, size=size).tolist() for size in rng.integers(1, longest, size=n)]


def test_small_documents_are_placed_by_hand() -> None:
    # Rows of 6. Largest first: BOS + 5 fills the first; then BOS + 3, and of the two that wait the one of two ids fits.
    packed = pack_documents([[1], [2, 2, 2], [3, 3, 3, 3, 3], [4]], T=5, bos=BOS, vocab_size=10)
    assert packed.ids.tolist() == [[0, 3, 3, 3, 3, 3], [0, 2, 2, 2, 0, 1]]
    assert packed.tokens == 14
    assert packed.cropped == pytest.approx(2 / 14)


def test_what_does_not_fit_is_cropped_from_the_shortest() -> None:
    packed = pack_documents([[1, 1, 1, 1], [2, 2, 2]], T=6, bos=BOS, vocab_size=10)
    assert packed.ids.tolist() == [[0, 1, 1, 1, 1, 0, 2]]
    assert packed.cropped == pytest.approx(2 / 9)


def test_a_document_longer_than_a_row_goes_on_after_a_new_bos() -> None:
    packed = pack_documents([list(range(1, 9))], T=4, bos=BOS, vocab_size=10)
    assert packed.ids.tolist() == [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8]]
    assert packed.cropped == 0


def test_rows_hold_prefixes_of_documents_and_nothing_else() -> None:
    given = documents(3_000, 150, seed=1)
    packed = pack_documents(given, T=64, bos=BOS, vocab_size=1_000)
    pieces = {tuple(d[i : i + 64]) for d in given for i in range(0, len(d), 64)}
    prefixes = {p[:n] for p in pieces for n in range(len(p) + 1)}
    whole = 0
    for row in packed.ids.tolist():
        assert row[0] == BOS
        starts = [i for i, t in enumerate(row) if t == BOS] + [len(row)]
        parts = [tuple(row[a + 1 : b]) for a, b in pairwise(starts)]
        assert all(p in prefixes for p in parts)
        assert all(p in pieces for p in parts[:-1])  # only the last of a row is cropped
        whole += len(parts)
    n_pieces = sum(-(-len(d) // 64) for d in given)
    assert 0.9 * n_pieces < whole <= n_pieces
    assert packed.tokens == sum(map(len, given)) + n_pieces
    assert packed.cropped == 1 - packed.ids.size / packed.tokens < 0.1


def test_packing_is_deterministic_and_sees_order() -> None:
    given = documents(500, 60, seed=2)
    first = pack_documents(given, T=32, bos=BOS, vocab_size=1_000).ids
    assert np.array_equal(first, pack_documents(iter(given), T=32, bos=BOS, vocab_size=1_000).ids)
    assert not np.array_equal(first, pack_documents(given[::-1], T=32, bos=BOS, vocab_size=1_000).ids)


def test_id_types() -> None:
    assert id_dtype(65_536) is np.uint16
    assert id_dtype(65_537) is np.int32
    top = pack_documents([[65_535] * 4], T=4, bos=65_534, vocab_size=65_536)
    assert top.ids.dtype == np.uint16
    assert top.ids.tolist() == [[65_534, 65_535, 65_535, 65_535, 65_535]]


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(DataError, match="3 tokens of text do not fill one row of 9"):
        pack_documents([[1, 2]], T=8, bos=BOS, vocab_size=10)


def conversation(token: int, prompt: int, reply: int) -> tuple[list[int], list[int]]:
    return [BOS] + [token] * (prompt + reply), [0] * (prompt + 1) + [1] * reply


def test_conversations_are_placed_whole_with_their_masks() -> None:
    given = [conversation(1, 1, 2), conversation(2, 3, 3), conversation(3, 1, 1), conversation(4, 2, 6)]
    packed = pack_conversations(given, T=7, pad=PAD, vocab_size=10)
    assert packed.ids.tolist() == [[0, 1, 1, 1, 0, 3, 3, 0], [0, 2, 2, 2, 2, 2, 2, 0]]
    assert packed.mask.tolist() == [[0, 0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1, 0]]
    assert (packed.kept, packed.too_long) == (3, 1)
    assert packed.padding == pytest.approx(2 / 16)


def test_every_conversation_that_fits_is_in_exactly_one_row() -> None:
    rng = np.random.default_rng(3)
    given = [conversation(i + 1, *rng.integers(1, 70, size=2).tolist()) for i in range(2_000)]
    packed = pack_conversations(given, T=127, pad=PAD, vocab_size=5_000)
    fitting = [c for c in given if len(c[0]) <= 128]
    assert 0 < len(fitting) < len(given)
    assert packed.kept == len(fitting) and packed.kept + packed.too_long == len(given)
    for (ids, mask), token in ((c, c[0][1]) for c in fitting):
        at = packed.ids == token
        assert at.any(axis=1).sum() == 1
        assert at.sum() == len(ids) - 1
        assert packed.mask[at].sum() == sum(mask)
    assert packed.mask.sum() == sum(sum(mask) for _, mask in fitting)
    assert packed.padding == pytest.approx(1 - sum(len(ids) for ids, _ in fitting) / packed.ids.size)


def best_fit(lengths: list[int], room: int, buffer: int) -> list[list[int]]:
    """The rule in its plainest form: rows of numbers of conversations, by looking at all that wait."""
    coming = [i for i, length in enumerate(lengths) if length <= room]
    waiting, rows = coming[:buffer], []
    del coming[:buffer]
    while waiting:
        row, pick = [], waiting[0]
        while True:
            waiting.remove(pick)
            row.append(pick)
            waiting += coming[:1]
            del coming[:1]
            free = room - sum(lengths[i] for i in row)
            fitting = [i for i in waiting if lengths[i] <= free]
            if not fitting:
                break
            pick = max(fitting, key=lambda i: (lengths[i], -i))
        rows.append(row)
    return rows


@pytest.mark.parametrize("buffer", [1, 7, 50, BUFFER])
def test_rows_are_those_of_the_rule_in_its_plainest_form(buffer: int) -> None:
    lengths = np.random.default_rng(5).integers(1, 80, size=1_500)
    plan = plan_conversations(lengths, T=63, buffer=buffer)
    assert [plan.row(i) for i in range(len(plan))] == best_fit(lengths.tolist(), 64, buffer)
    assert plan.too_long == (lengths > 64).sum() > 0
    assert plan.tokens == lengths[lengths <= 64].sum()


def test_little_is_padded_when_conversations_are_short() -> None:
    rng = np.random.default_rng(4)
    given = [conversation(i + 1, *rng.integers(1, 40, size=2).tolist()) for i in range(2_000)]
    assert pack_conversations(given, T=511, pad=PAD, vocab_size=5_000).padding < 0.02


def test_rows_start_with_the_conversation_that_waited_longest() -> None:
    given = [conversation(i + 1, 20, 20) for i in range(50)]
    packed = pack_conversations(given, T=63, pad=PAD, vocab_size=100)
    assert packed.ids[:, 1].tolist() == list(range(1, 51))


def test_nothing_that_fits_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 1 conversations fits a row of 9 tokens"):
        pack_conversations([conversation(1, 10, 10)], T=8, pad=PAD, vocab_size=10)
