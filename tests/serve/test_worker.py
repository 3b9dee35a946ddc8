"""The thread that owns torch, when something in it goes wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

import aquarat_core as aq
from aquarat_core.rollout.batch import Batch, Request
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.serving.worker import BusyError, Limits, Stream, Worker
from tests.patience import limit

LIMITS = Limits(rows=4, waiting=2, max_new_tokens=50)


@pytest.fixture
def worker(model: aq.Model) -> Iterator[Worker]:
    made = Worker({"toy": model}, {"toy": LIMITS})
    yield made
    made.close()


def request(n: int, budget: int = 20) -> Request:
    return Request([1, 2, 3 + n], [n], 0, budget, Sampling(1.0))


async def whole(stream: Stream) -> list[int]:
    tokens: list[int] = []
    while drawn := await stream.take():
        tokens += [one.token for one in drawn]
    return tokens


def test_a_step_that_fails_fails_its_answers_and_not_the_next(
    worker: Worker, model: aq.Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Batch.step

    def failing(batch: Batch) -> None:
        if batch.steps == 5:
            raise RuntimeError("out of memory")
        step(batch)

    async def scenario() -> None:
        worker.start()
        with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
            patched.setattr(Batch, "step", failing)
            streams = [stream for _, stream in worker.ask("toy", [request(0), request(1)])]
            said = [await whole(stream) for stream in streams]
        assert [stream.ending for stream in streams] == ["failed", "failed"] and all(len(s) <= 5 for s in said)
        ((_, stream),) = worker.ask("toy", [request(2)])
        said = await whole(stream)
        ((expected,),) = model.engine.generate([[1, 2, 5]], [[2]], 20, 1.0)
        assert said == expected.tokens and stream.ending == ("stop" if expected.ended else "length")

    asyncio.run(scenario())
    assert "out of memory" in caplog.text


def test_work_of_others_is_done_between_steps_and_its_errors_are_theirs(worker: Worker) -> None:
    async def scenario() -> None:
        worker.start()
        ((_, stream),) = worker.ask("toy", [request(0, 50)])
        assert await worker.run(lambda: 6 * 7) == 42
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 / 0)
        assert await whole(stream)

    asyncio.run(scenario())


def test_no_more_are_taken_than_may_wait_and_ended_ones_make_room(worker: Worker) -> None:
    async def scenario() -> None:
        worker.start()
        asked = worker.ask("toy", [request(n, 50) for n in range(6)])
        assert worker.busy("toy") == (4, 2)
        with pytest.raises(BusyError, match="6 answers"):
            worker.ask("toy", [request(9)])
        worker.end("toy", [number for number, _ in asked])
        for _, stream in asked:
            await whole(stream)
        assert worker.busy("toy") == (0, 0)
        worker.ask("toy", [request(9)])

    asyncio.run(scenario())


def test_closing_fails_what_is_unfinished(worker: Worker) -> None:
    async def scenario() -> None:
        worker.start()
        ((_, stream),) = worker.ask("toy", [request(0, 50)])
        worker.close()
        await whole(stream)
        assert stream.ending in ("failed", "stop", "length")

    asyncio.run(scenario())


def test_however_much_other_work_there_is_answers_go_on(worker: Worker) -> None:
    async def scenario() -> None:
        worker.start()
        done = 0

        async def keep_busy() -> None:
            nonlocal done
            while True:
                await worker.run(lambda: None)
                done += 1

        busy = [asyncio.create_task(keep_busy()) for _ in range(20)]
        ((_, stream),) = worker.ask("toy", [request(0)])
        assert await asyncio.wait_for(whole(stream), limit(30))
        before = done
        for _ in range(20):  # and the other work goes on without answers
            await worker.run(lambda: None)
        assert done > before
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)

    asyncio.run(scenario())


def test_the_smallest_top_p_takes_the_likeliest_token(worker: Worker, model: aq.Model) -> None:
    async def scenario() -> None:
        worker.start()
        tiny = replace(request(0), sampling=Sampling(1.0, top_p=5e-324))
        ((_, stream),) = worker.ask("toy", [tiny])
        said = await whole(stream)
        ((expected,),) = model.engine.generate([[1, 2, 3]], [[0]], 20, 0.0)
        assert said == expected.tokens

    asyncio.run(scenario())
