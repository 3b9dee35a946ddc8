"""Entropy, distance and maps of heads whose attention is known, and of any head by the definition."""

from __future__ import annotations

import math

import pytest
import torch

from aquarat_core.evaluation.interpret import attention as attention_module
from aquarat_core.evaluation.interpret import watching
from aquarat_core.evaluation.interpret.attention import attention_by_head, head_map
from aquarat_core.evaluation.interpret.batch import Context
from aquarat_core.evaluation.interpret.watching import attention_of, watch
from tests.evaluation.interpret.hand_made import empty_model, look_back
from tests.evaluation.interpret.test_watching import every_option
from tests.factories import random_ids, random_model, tokenizer


def test_even_attention_has_entropy_one_and_reaches_to_the_middle() -> None:
    found = attention_by_head(empty_model(), [[1] * 11, [2] * 31])
    assert found["entropy"] == [[1.0, 1.0]] == found["entropy_at_answer"]
    assert found["distance_at_answer"] == [[10.0, 10.0]]  # (10 / 2 + 30 / 2) / 2
    # At position i it is i / 2: 5.5 / 2 on average over 1 ... 10, 15.5 / 2 over 1 ... 30.
    assert found["distance"][0] == pytest.approx([(5.5 + 15.5) / 4] * 2)
    assert found["first_token_at_answer"][0] == pytest.approx([(1 / 11 + 1 / 31) / 2] * 2, abs=1e-6)


def test_a_window_bounds_what_is_even() -> None:
    model = empty_model(depth=2, window_pattern="SL", sequence_len=300)
    assert model.config.windows == (128, 300)
    found = attention_by_head(model, [[3] * 200])
    assert found["entropy"] == [[1.0, 1.0]] * 2 == found["entropy_at_answer"]
    assert found["distance_at_answer"] == [[63.5, 63.5], [99.5, 99.5]]
    assert found["first_token_at_answer"] == [[0.0, 0.0], [0.005, 0.005]]


def test_a_head_that_looks_at_the_token_before() -> None:
    model = empty_model()
    look_back(model, 0, 1, 1)
    found = attention_by_head(model, [list(range(15))])
    even, sharp = zip(found["entropy"][0], found["distance"][0], strict=True)
    assert even[0] == 1.0
    assert sharp == pytest.approx((0.0, 1.0), abs=1e-3)


@every_option
def test_measures_of_any_model_by_the_definition(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(**config)
    n = 200 if model.config.sequence_len > 200 else 40
    contexts = [random_ids(t, seed=t).tolist() for t in (n, 5, 1)]
    expected = torch.tensor([_by_definition(model, c) for c in contexts]).mean(dim=0)
    monkeypatch.setattr(watching, "MAX_WEIGHTS", 20_000)  # in several parts
    monkeypatch.setattr(attention_module, "ROWS", 2)
    found = attention_by_head(model, contexts)
    names = ("entropy", "distance", "first_token")
    for i, name in enumerate(names):
        torch.testing.assert_close(torch.tensor(found[name]), expected[:, :, 0, i], atol=2e-5, rtol=1e-4)
        at_answer = torch.tensor(found[f"{name}_at_answer"])
        torch.testing.assert_close(at_answer, expected[:, :, 1, i], atol=2e-5, rtol=1e-4)


def _by_definition(model, context: list[int]) -> list:
    """[layers, heads, 2, 3]: the measures, over all positions and at the last, in loops over single weights."""
    found: list = []

    def look(_layer, q, k, window) -> None:
        (a_HTT,) = attention_of(q, k, 0, window).double()
        found.append([])
        for a in a_HTT.tolist():
            rows = []
            for i, row in enumerate(a):
                t = min(i + 1, window)
                entropy = -sum(p * math.log(p) for p in row if p > 0) / math.log(t) if t > 1 else 0.0
                rows.append((entropy, sum(p * (i - j) for j, p in enumerate(row)), row[0]))
            later = rows[1:] or [(0.0, 0.0, 0.0)]
            found[-1].append([[sum(r[m] for r in later) / len(later) for m in range(3)], list(rows[-1])])

    watch(model, torch.tensor([context]), look)
    return found


def test_a_map_is_the_attention_from_the_last_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = empty_model(sequence_len=400)
    look_back(model, 0, 1, 2)
    ids = tokenizer().encode("so 7 + 8 = 15. 15 + 9")[:20]
    ids = [i % 20 for i in ids]
    found = head_map(model, tokenizer(), Context("q1", ids))
    assert (found["id"], found["cut"], len(found["tokens"])) == ("q1", 0, len(ids))
    even, sharp = found["weights"][0]
    assert even == [round(1 / len(ids), 4)] * len(ids)
    assert sharp[-3] == pytest.approx(1.0, abs=1e-2) and sum(sharp[:-4]) == pytest.approx(0.0, abs=1e-2)


def test_a_map_of_a_long_context_keeps_the_last_tokens() -> None:
    model = empty_model(sequence_len=400)
    look_back(model, 0, 1, 2)
    found = head_map(model, tokenizer(), Context("q1", list(range(20)) * 20))
    assert found["cut"] == 400 - 256
    assert [len(weights) for weights in found["weights"][0]] == [256, 256] == [len(found["tokens"])] * 2
    even, sharp = found["weights"][0]
    assert sum(even) == pytest.approx(256 / 400, abs=0.02)
    assert sharp.index(max(sharp)) == 253 and found["tokens"][253] == tokenizer().token(17).decode()
