"""The metric log: one JSON row a step, and W&B only where it is wanted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aquarat_core.config import WandbConfig
from aquarat_core.tracking.metrics import MetricLog, metric_log, wandb_mode
from tests.factories import context


def test_rows_are_json_lines_without_what_json_cannot_say(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "metrics.jsonl", None)
    log.row(0, **{"train/loss": 2.5, "train/grad_norm": float("nan")})
    log.row(1, **{"train/loss": float("inf"), "train/skipped_steps": 1})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 0, "train/loss": 2.5}, {"step": 1, "train/skipped_steps": 1}]


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    ctx = context(tmp_path)
    ctx.rank = 1
    with metric_log(ctx, WandbConfig()) as log:
        log.row(0, loss=1.0)
    assert list(tmp_path.iterdir()) == []
    ctx.rank = 0
    with metric_log(ctx, WandbConfig()) as log:
        log.row(0, loss=1.0)
        # A row is on disk as soon as it is written: a killed stage leaves its curve.
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 0, "loss": 1.0}
    assert ctx.wandb is None


@pytest.mark.parametrize(
    ("environment", "mode", "expected"),
    [
        ({}, "auto", "offline"),
        ({"WANDB_API_KEY": "k"}, "auto", "online"),
        ({"WANDB_API_KEY": "k"}, "offline", "offline"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "online", "disabled"),
        ({"WANDB_MODE": ""}, "disabled", "disabled"),
    ],
)
def test_the_environment_decides_before_the_config_and_the_key_last(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], mode: str, expected: str
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(WandbConfig(mode=mode)) == expected
