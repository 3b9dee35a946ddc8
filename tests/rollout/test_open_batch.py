"""A batch that requests of all kinds join and leave while it runs, against each request alone."""

from __future__ import annotations

import random

import pytest
import torch

from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.batch import PROMPT_ROOM, Batch, Drawn, Request
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.tools import calculator
from tests.factories import calling_model, random_ids, random_model, tokenizer

STOP, ROOM = 7, 200


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(vocab_size=40, seed=5, sequence_len=256)


def request(n: int, prompt_len: int | None = None, **how) -> Request:
    """A request that differs from the others in all respects."""
    chosen = random.Random(n)
    sampling = Sampling(chosen.choice([0.0, 0.7, 1.0, 1.3]), chosen.choice([None, 5]), chosen.choice([None, 0.9]))
    ids = random_ids(prompt_len or chosen.randrange(1, 40), vocab_size=40, seed=n).tolist()
    return Request(ids, [1000 + n], n, chosen.randrange(1, 25), sampling, **how)


def alone(engine: Engine, asked: Request) -> list[int]:
    how = asked.sampling
    ((found,),) = engine.generate(
        [asked.prompt], [list(asked.keys)], asked.budget, how.temperature, 1, how.top_k, how.top_p, asked.tool
    )
    return found.tokens


def run(batch: Batch, arriving: dict[int, list[Request]], until: int = 10_000) -> dict[int, list[Drawn]]:
    """The tokens of all completions in the order they came, when requests arrive at those steps."""
    came: dict[int, list[Drawn]] = {}
    with torch.inference_mode():
        for step in range(until):
            batch.add(arriving.get(step, []))
            if not batch.harvest():
                if step >= max(arriving):
                    return came
                continue
            batch.step()
            for drawn in batch.newest():
                came.setdefault(drawn.item, []).append(drawn)
    return came


def test_each_request_gets_what_it_gets_alone(model: Transformer) -> None:
    engine = Engine(model, [STOP])
    asked = [request(n) for n in range(40)]
    arriving = {0: asked[:3], 2: asked[3:10], 9: asked[10:11], 11: asked[11:38], 400: asked[38:]}
    batch = engine.open(rows=5, prompt_len=ROOM, budget=30)
    came = run(batch, arriving)
    for one in asked:
        assert [drawn.token for drawn in came[one.first]] == alone(engine, one), one
        assert batch.completions[one.first].tokens == [drawn.token for drawn in came[one.first]]
        assert batch.completions[one.first].ended == (came[one.first][-1].token == STOP)


def test_room_for_prompts_follows_the_longest_and_changes_no_token(model: Transformer) -> None:
    engine = Engine(model, [STOP])
    lengths = [3, 20, 70, 5, 190, 8, 8, 8, 8, 8, 8]
    asked = [request(n, length) for n, length in enumerate(lengths)]
    batch = engine.open(rows=3, prompt_len=ROOM, budget=30)
    rooms = set()
    came: dict[int, list[Drawn]] = {}
    for one in asked:
        came |= run(batch, {0: [one]})
        rooms.add(batch.kv_cache.size[1])
    came2 = run(engine.open(rows=3, prompt_len=ROOM, budget=30), {i: [one] for i, one in enumerate(asked)})
    assert min(rooms) == PROMPT_ROOM and 190 <= max(rooms) < 256 and batch.kv_cache.size[1] == PROMPT_ROOM
    for one in asked:
        tokens = alone(engine, one)
        assert [drawn.token for drawn in came[one.first]] == tokens
        assert [drawn.token for drawn in came2[one.first]] == tokens


def test_completions_can_be_ended_whether_they_wait_or_run(model: Transformer) -> None:
    engine = Engine(model, [])
    long = [Request(random_ids(4, vocab_size=40, seed=n).tolist(), [n], n, 25, Sampling(1.0)) for n in range(4)]
    batch = engine.open(rows=2, prompt_len=ROOM, budget=30)
    came = run(batch, {0: long}, until=5)
    assert set(came) == {0, 1}
    batch.end([1, 3])  # one runs, and one waits
    came2 = run(batch, {0: []})
    tokens = {n: [d.token for d in (*came.get(n, []), *came2.get(n, []))] for n in range(4)}
    assert tokens[0] == alone(engine, long[0]) and tokens[2] == alone(engine, long[2])
    assert tokens[1] == alone(engine, long[1])[:5] and not tokens[3]
    assert set(batch.completions) == {0, 1, 2} and not batch.completions[1].ended


def test_likelihoods_are_those_of_the_network_at_temperature_1(model: Transformer) -> None:
    engine = Engine(model, [STOP])
    asked = [request(3), request(4, alternatives=3), request(5, alternatives=0), request(6)]
    came = run(engine.open(rows=4, prompt_len=ROOM, budget=30), {0: asked})
    for one in asked:
        ids = list(one.prompt)
        assert [drawn.token for drawn in came[one.first]] == alone(engine, one)
        for drawn in came[one.first]:
            if one.alternatives is None:
                assert drawn.likelihood is None
            else:
                assert drawn.likelihood is not None
                with torch.no_grad():
                    logp = torch.log_softmax(engine.model(torch.tensor([ids]))[0, -1].float(), dim=0)
                assert drawn.likelihood.logprob == pytest.approx(float(logp[drawn.token]), abs=1e-4)
                top = logp.topk(one.alternatives)
                assert [id for id, _ in drawn.likelihood.alternatives] == top.indices.tolist()
                values = [value for _, value in drawn.likelihood.alternatives]
                assert values == pytest.approx(top.values.tolist(), abs=1e-4)
            ids.append(drawn.token)


def test_some_rows_may_use_the_calculator_and_others_not() -> None:
    tok = tokenizer()
    engine = Engine(calling_model(), [tok.special("<|assistant_end|>")])
    prompt = tok.encode("12 + 30")
    tool = calculator(tok)
    asked = [Request(prompt, [n], n, 60, Sampling(1.0), tool if n % 2 else None) for n in range(8)]
    batch = engine.open(rows=8, prompt_len=ROOM, budget=60)
    run(batch, {0: asked})
    assert any(batch.completions[n].forced for n in (1, 3, 5, 7))
    for one in asked:
        assert batch.completions[one.first].tokens == alone(engine, one)
        assert one.tool or not batch.completions[one.first].forced


def test_a_stream_is_what_generate_gives(model: Transformer) -> None:
    engine = Engine(model, [STOP])
    for n in range(6):
        one = request(n)
        came = list(engine.stream(one.prompt, one.keys[0], one.budget, one.sampling))
        assert [drawn.token for drawn in came] == alone(engine, one)
