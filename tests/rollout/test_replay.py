"""Steps that are recorded and replayed: on CPUs by what a capture would see, on a GPU by CUDA graphs themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses import fake_tensor

from aquarat_core.model.kv_cache import DecodeShape, KVCache
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout import replay
from aquarat_core.rollout.batch import Batch, Completion, Request
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.replay import GraphRunner, rounded
from aquarat_core.rollout.rows import DecodeStep, DeviceRows
from aquarat_core.rollout.sampling import Sampling
from tests.factories import random_ids, random_model
from tests.rollout.capture import Capture, Recording, Refused

pytestmark = pytest.mark.slow

STOP, BUDGET, VOCABULARY = 7, 20, 40
LENGTHS = (9, 3, 17, 1, 12)
KEYS = [[100 * p + s for s in range(3)] for p in range(len(LENGTHS))]
MODERN = {
    "width_per_layer": 32, "head_size": 16, "n_kv_head": 2, "value_embeddings": True,
    "residual_lambdas": True, "smear": True, "backout": True,
}  # fmt: skip
SAMPLINGS = [Sampling(), Sampling(0.0), Sampling(0.7, top_k=5, top_p=0.9)]


def prompts() -> list[list[int]]:
    return [random_ids(n, vocab_size=VOCABULARY, seed=n).tolist() for n in LENGTHS]


def model(**config: Any) -> Transformer:
    return random_model(VOCABULARY, seed=5, **config)


def said(engine: Engine, max_rows: int = 1000, **how: Any) -> list[Completion]:
    groups = engine.generate(prompts(), KEYS, BUDGET, how.pop("temperature", 1.0), max_rows=max_rows, **how)
    return [c for group in groups for c in group]


def same(a: list[Completion], b: list[Completion]) -> None:
    assert [(c.tokens, c.ended) for c in a] == [(c.tokens, c.ended) for c in b]
    for mine, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(torch.tensor(mine.logprobs), torch.tensor(theirs.logprobs), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "max_rows", "how"),
    [
        ({"embedding_taps": 2}, 7, {}),
        (MODERN, 7, {"temperature": 0.7, "top_k": 5, "top_p": 0.9}),
        (MODERN, 1000, {}),
        ({"window_pattern": "SL"}, 1000, {"temperature": 0.0}),
    ],
    ids=["taps, refilled", "modern, refilled", "modern", "windows"],
)
def test_replayed_steps_are_the_recorded_ones_and_draw_what_eager_ones_draw(
    config: dict, max_rows: int, how: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through refilling, closing up and slots of other rows; every replay is compared with its recording."""
    monkeypatch.setattr(replay, "GENERATED_TOKENS", 8)
    recording = Recording()
    replayed, eager = Engine(model(**config), [STOP], recording), Engine(model(**config), [STOP])
    same(said(replayed, max_rows, **how), said(eager, max_rows, **how))
    assert not replayed._runner.failed and recording.replayed > recording.recorded > 2


def test_new_weights_are_replayed_from_where_the_old_ones_were() -> None:
    recording, other = Recording(), random_model(VOCABULARY, seed=6)
    engine = Engine(model(), [STOP], recording)
    said(engine)
    at, recorded = [p.data_ptr() for p in engine.model.parameters()], recording.recorded
    engine.refresh(other)
    assert [p.data_ptr() for p in engine.model.parameters()] == at
    same(said(engine), said(Engine(other, [STOP])))
    assert recording.recorded == recorded, "nothing is recorded again"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x + torch.tensor([1.0]), "lift_fresh"),
        (lambda x: bool(x.any()), "is_nonzero|_local_scalar_dense"),
    ],
)
def test_what_a_capture_refuses_is_refused(step: Callable, why: str) -> None:
    with pytest.raises(Refused, match=why), Capture():
        step(torch.ones(3))


def test_a_step_with_a_number_or_an_address_of_its_own_is_no_replay() -> None:
    x, count = torch.zeros(3), [0]

    def number() -> None:
        count[0] += 1
        x.add_(count[0])

    def address() -> None:
        x.copy_(elsewhere[0])

    elsewhere = [torch.ones(3)]
    for run, change in ((number, lambda: None), (address, lambda: elsewhere.insert(0, torch.ones(3)))):
        again = Recording().capture(run)
        again()
        change()
        with pytest.raises(AssertionError, match="would not do what this step does"):
            again()


class Refusing(Recording):
    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


class Forgetful(Recording):
    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class Confused(Recording):
    """Draws the right token and reads it wrong."""

    engine: Engine

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        return lambda: (run(), self.engine._runner.rows.hidden_RC.mul_(-1))[0]


@pytest.mark.parametrize(
    ("graph_capture", "why"),
    [
        (Refusing, "not permitted when stream"),
        (Forgetful, "other results in 100.0% of the rows"),
        (Confused, "other results in 100.0% of the rows"),
    ],
)
def test_what_cannot_be_recorded_goes_on_eagerly_and_says_why_once(
    graph_capture: type[Recording], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(model(), [STOP], graph_capture())
    engine.graph_capture.engine = engine
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            same(said(engine, 13), said(Engine(model(), [STOP]), 13))
    assert len(caplog.records) == 1 and why in caplog.text


def test_extents_are_rounded_up_to_a_few_within_the_memory() -> None:
    size = (100, 200, 1000, 90)
    assert rounded(DecodeShape(1, 1, 1, 1, True, True), size) == DecodeShape(8, 1, 64, 32)
    assert rounded(DecodeShape(513, 65, 130, 33, True, True), size) == DecodeShape(640, 80, 192, 64)
    assert rounded(DecodeShape(1000, 100, 200, 90, True, True), size) == DecodeShape(1000, 100, 200, 90, False, True)
    every = {rounded(DecodeShape(n, 1, 1, 1), size).rows for n in range(1, 1001)}
    assert len(every) < 32 and all(min(r for r in every if r >= n) <= max(8, n * 5 / 4) for n in range(1, 1001))


# --- on a device that is not there -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["all", "greedy", "cut"])
@pytest.mark.parametrize("config", [{}, MODERN, {"window_pattern": "SL"}], ids=["classic", "modern", "windows"])
def test_a_gpus_prefill_steps_and_refilling_need_nothing_of_the_host(
    config: dict, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's fake tensors on "cuda" compute shapes alone, and refuse to mix devices or to tell their values."""
    monkeypatch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0)  # lists of one number would be sent to a real device
    described, asked = model(**config).config, prompts()
    with fake_tensor.FakeTensorMode(), torch.inference_mode():
        with torch.device("cuda"):
            net = Transformer(described, VOCABULARY, torch.bfloat16)
        kv_cache = KVCache(net.config, 4, 17, 3, 7, BUDGET, torch.bfloat16, torch.device("cuda"))
        rows = DeviceRows(net, kv_cache, [STOP])
        requests = [Request(p, [1, 2, 3], 3 * i, BUDGET, sampling) for i, p in enumerate(asked)]
        watched = Watched(rows)
        batch = Batch(watched, requests)
        batch.rearrange([])
        assert len(batch.rows) == 7 and len(batch.prompt_lengths) == 3
        for live in ([True] * 7, [False] * 5 + [True] * 2, [True, False] * 3 + [True]):
            for _ in range(2):
                batch.step()
            batch.rearrange(live)
        assert not batch.waiting and watched.steps == 6
        assert {t.device.type for t in rows.state} == {"cuda"}


class Watched(GraphRunner):
    """Does each step under what a capture allows, on the device alone."""

    def __init__(self, rows: DeviceRows) -> None:
        super().__init__(rows, None)
        self.steps = 0

    def advance(self, step: DecodeStep) -> None:
        self.steps += 1
        with Capture("cuda"):
            self.rows.advance(DecodeStep(rounded(step.shape, self.rows.kv_cache.size), step.sampling))


class Plain(Recording):
    """Steps in the same rounded shapes, run eagerly."""

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        return run


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here: CUDA graphs were not run")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_draw_what_eager_steps_draw(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    net, other = (random_model(VOCABULARY, seed=seed, dtype=dtype).to("cuda") for seed in (5, 6))
    graphs, eager = Engine(net, [STOP]), Engine(net, [STOP], Plain())
    for max_rows in (5, 13, 1000):
        same(said(graphs, max_rows), said(eager, max_rows))
    assert graphs._runner._captured and not graphs._runner.failed and not caplog.records
    for engine in (graphs, eager):
        engine.refresh(other)
    same(said(graphs), said(eager))
