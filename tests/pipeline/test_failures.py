"""Whose fault it is that an asset failed: what Dagster shows of it, and whether it is tried again."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest
from dagster._core.errors import DagsterUserCodeProcessError

from aquarat_pipeline.jobs import running
from aquarat_pipeline.runs import executor
from tests.failures import FIXED_BY_USER, KINDS
from tests.pipeline.test_launching import with_one_retry
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow


def failing(kind: str, calls: list[str]) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        calls.append(kind)
        KINDS[kind][0]()

    return fail


def check(result: dg.ExecuteInProcessResult, kind: str, calls: list[str]) -> None:
    failures = [e for e in result.all_events if e.is_step_failure]
    assert len(failures) == 1 and not result.success
    data, user = failures[0].step_failure_data, kind in FIXED_BY_USER
    if user:
        assert calls == [kind], "not tried again"
        assert data.user_failure_data.description == KINDS[kind][2]
    else:
        assert calls == [kind, kind], "tried again"
        assert data.user_failure_data is None
        assert KINDS[kind][2] in str(data.error) and "tests/failures.py" in str(data.error), "with its traceback"


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_asset_raises_before_its_job(chain: Chain, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    calls: list[str] = []
    monkeypatch.setattr("aquarat_pipeline.assets.stage.check_inputs", failing(kind, calls))
    check(with_one_retry(chain, "aqua_dataset"), kind, calls)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_watcher_of_a_job_raises(chain: Chain, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    calls: list[str] = []
    monkeypatch.setattr(running, "follow", failing(kind, calls))
    check(with_one_retry(chain, "aqua_dataset"), kind, calls)


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_a_run_before_its_first_step(kind: str) -> None:
    raises, found, said = KINDS[kind]
    with pytest.raises(DagsterUserCodeProcessError if kind in FIXED_BY_USER else found, match=said):  # noqa: SIM117
        with executor._said_without_a_trace():
            raises()
