"""The plain engine says what ours says, so that their speeds can be compared."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.rollout.engine import Engine
from benchmarks.plain_engine import PlainEngine
from tests.factories import random_ids, random_model


@pytest.mark.parametrize("config", [{}, {"n_kv_head": 1}], ids=["all heads", "shared heads"])
def test_it_says_what_our_engine_says(config: dict) -> None:
    model = random_model(seed=3, **config)
    prompts = [random_ids(n, seed=n).tolist() for n in (9, 4)]
    said = PlainEngine(model).generate(prompts, 2, 12, greedy=True)
    ours = Engine(model, []).generate(prompts, [[0, 1], [2, 3]], 12, 0.0)
    assert said == [[completion.tokens for completion in group] for group in ours]


def test_its_samples_differ_and_their_seed_repeats_them() -> None:
    engine = PlainEngine(random_model(seed=3))
    prompt = random_ids(6, seed=1).tolist()
    first = engine.generate([prompt], 4, 8, seed=5)
    assert len({tuple(tokens) for tokens in first[0]}) > 1 and all(len(tokens) == 8 for tokens in first[0])
    assert engine.generate([prompt], 4, 8, seed=5) == first != engine.generate([prompt], 4, 8, seed=6)


def test_models_of_other_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="basic form"):
        PlainEngine(random_model(smear=True))
    with pytest.raises(ValueError, match="float32"):
        PlainEngine(random_model(dtype=torch.bfloat16))
