"""Callbacks, by hand."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch

from aquarat_core.config import ConfigError
from aquarat_core.runtime import hardware
from aquarat_core.runtime.hardware import deterministic, gc_disabled, peak_flops
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.training import callbacks
from aquarat_core.training.callbacks import MetricRecorder, Throughput, TrainingStep, Validation
from tests.factories import CPU, context


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    return now


def test_throughput_share_of_the_peak_and_seconds_left(clock: list[float]) -> None:
    throughput = Throughput(batch_tokens=1_000, flops_per_token=2e6, peak_flops=4e9)
    for done, seconds in ((1, 2.0), (2, 4.0)):
        step = TrainingStep(done, 10, {"time/data": seconds / 8})
        clock[0] += seconds
        throughput.after_step(step)
        clock[0] += 50  # validation and checkpoints are not in it
    assert step.metrics.pop("time/data") == 0.5
    assert step.metrics == {"train/tokens_per_second": 250.0, "train/mfu": 0.125, "time/eta": 24.0}
    again = Throughput(1_000, 2e6, None)
    again.load_state_dict(json.loads(json.dumps(throughput.state_dict())))
    assert (again.seconds, again.data_seconds) == (6.0, 0.75)
    again.load_state_dict({"seconds": 6.0})
    assert again.data_seconds == 0.0, "older states have none"
    step = TrainingStep(3, 10, {"time/data": 0.0})
    clock[0] += 1
    again.after_step(step)
    assert "train/mfu" not in step.metrics and step.metrics["time/eta"] == pytest.approx(7 / 3 * 7)


def test_validation_comes_when_due_and_at_the_end() -> None:
    measured = []
    validation = Validation(3, lambda: measured.append(1) or {"val/loss": float(len(measured))})
    due = []
    for done in range(1, 8):
        step = TrainingStep(done, 7)
        validation.after_step(step)
        if "val/loss" in step.metrics:
            due.append(done)
            assert step.metrics["time/validation"] >= 0
    assert due == [3, 6, 7]
    again = Validation(3, dict)
    again.load_state_dict(validation.state_dict())
    assert again.scores == {"val/loss": 3.0}


def test_rows_of_a_resumed_run_follow_those_that_were_saved(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    def record() -> MetricRecorder:
        return MetricRecorder(MetricLog(path, None), context(tmp_path), ("train/loss",))

    first = record()
    first.after_step(TrainingStep(1, 9, {"train/loss": 3.0}))
    saved = first.state_dict()
    first.after_step(TrainingStep(2, 9, {"train/loss": 2.0}))
    again = record()  # a new process, in which the file is new
    again.load_state_dict(saved)
    again.after_step(TrainingStep(2, 9, {"train/loss": 2.5}))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "train/loss": 3.0},
        {"step": 2, "train/loss": 2.5},
    ]


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835), ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835), ("NVIDIA H20", 148), ("NVIDIA B200", 2250), ("NVIDIA GB200", 2500),
        ("NVIDIA GH200 480GB", 989), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121), ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181), ("T1000", None),
    ],
)  # fmt: skip
def test_peaks_by_name(monkeypatch: pytest.MonkeyPatch, name: str, tera: float | None) -> None:
    monkeypatch.setattr(hardware.torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0)) == (tera and tera * 1e12)
    assert peak_flops(CPU) is None


def test_the_collector_rests_meanwhile() -> None:
    assert gc.isenabled()
    with gc_disabled():
        assert not gc.isenabled() and gc.get_freeze_count() > 0
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_sums_repeat_where_gradients_are_computed_on_a_gpu_and_nowhere_else() -> None:
    gpu = torch.device("cuda", 0)
    for wanted, device, expected in ((True, gpu, True), (False, gpu, False), (True, CPU, False)):
        with deterministic(wanted, device):
            assert torch.are_deterministic_algorithms_enabled() is expected
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="of another kind"), deterministic(True, gpu):
        raise RuntimeError("of another kind")
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_whose_sums_cannot_repeat_is_said_in_terms_of_the_config() -> None:
    said = r"sums cannot repeat on this GPU \(put_ does not have .* implementation\): set launch.deterministic to false"
    with pytest.raises(ConfigError, match=said), deterministic(True, torch.device("cuda", 0)):
        # As on a GPU; torch raises it on CPUs for this one too.
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
