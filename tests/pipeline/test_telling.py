"""How often Dagster is told of a stage's progress, and what it is told."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from aquarat_pipeline.jobs.telling import PROGRESS, Teller


class Recorder:
    """A step's context, its run and its instance: what `Teller` uses of them."""

    def __init__(self) -> None:
        self.asset_key = dg.AssetKey(["wide", "base_checkpoint"])
        self.run = self.instance = self
        self.lines: list[str] = []
        self.observations: list[dg.AssetObservation] = []

    def log_event(self, event: dg.AssetObservation) -> None:
        self.observations.append(event)

    def report_engine_event(self, message: str, run: Any, step_key: str) -> None:
        assert run is self and step_key == "wide__base_checkpoint"
        self.lines.append(message)


@pytest.mark.parametrize(("hours", "lines"), [(0.01, 5), (1, 102), (100, 1201)])
def test_a_dozen_observations_and_more_lines_whatever_a_stage_takes(hours: float, lines: int) -> None:
    context, now = Recorder(), 0.0
    tell = Teller(context, clock=lambda: now)
    steps = 10_000
    for done in range(steps + 1):
        now = done / steps * hours * 3600
        tell({"done": done, "total": steps, "unit": "steps", "metrics": {"train/loss": 2.0, "bad": float("nan")}})
    assert len(context.lines) <= lines and len(context.observations) <= 12
    assert len(context.lines) >= len(context.observations) >= 4
    assert context.observations[0].description == "0 of 10,000 steps"
    assert context.observations[-1].description == "10,000 of 10,000 steps"
    assert [dict(o.metadata) for o in context.observations[:1]] == [{"train/loss": dg.MetadataValue.float(2.0)}]


def test_the_time_left_is_that_of_the_work_since_the_first_message() -> None:
    context, now = Recorder(), 100.0
    tell = Teller(context, clock=lambda: now)
    tell({"done": 500, "total": 1000, "unit": "steps", "metrics": {}})  # resumed from a saved state
    now = 160.0
    tell({"done": 600, "total": 1000, "unit": "steps", "metrics": {"train/loss": 1.23456}})
    assert context.lines == [
        f"{PROGRESS}500 of 1,000 steps",
        f"{PROGRESS}600 of 1,000 steps, about 4 min left  train/loss 1.235",
    ]


def test_the_same_line_is_not_written_twice() -> None:
    context = Recorder()
    tell = Teller(context)
    for text in ("Waiting for a host.", "Waiting for a host.", "Loading."):
        tell.say(text)
    assert context.lines == ["Waiting for a host.", "Loading."]
