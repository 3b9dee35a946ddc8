"""What is refused before the first step, with both values named."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.config import ConfigError, TrainConfig
from aquarat_core.config.accounting import parameters, training_bytes
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.memory import free_bytes
from aquarat_core.training import preflight
from aquarat_core.training.preflight import check_run, out_of_memory_explained
from tests.factories import CPU, ONE, random_model

TWO = World(0, 2, CPU, torch.float32)


def test_a_batch_that_is_no_whole_number_of_rows_names_both_numbers() -> None:
    check_run(random_model(), TrainConfig(batch_tokens=64 * 3, micro_batch_rows=2), TWO)
    with pytest.raises(ConfigError, match="batch_tokens 100 is not a multiple of sequence_len 64: change"):
        check_run(random_model(), TrainConfig(batch_tokens=100), ONE)


def test_a_model_that_will_not_fit_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = random_model(), TrainConfig(batch_tokens=64 * 8, micro_batch_rows=8)
    needed = training_bytes(model.config, 100, 8, keeps_attention=True)
    assert needed > 4 * 3 * parameters(model.config, 100)
    monkeypatch.setattr(preflight, "free_bytes", lambda device: needed)
    check_run(model, config, ONE)
    monkeypatch.setattr(preflight, "free_bytes", lambda device: needed - 1)
    with pytest.raises(ConfigError, match=r"needs at least 0\.0 GB on each rank, but 0\.0 GB are free: lower micro_b"):
        check_run(model, config, ONE)
    # Two ranks of one host share its memory.
    each = training_bytes(model.config, 100, 4, ranks=2, keeps_attention=True)
    monkeypatch.setattr(preflight, "free_bytes", lambda device: int(1.5 * each))
    check_run(model, config, TWO)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="on each rank"):
        check_run(model, config, TWO)
    assert 1e8 < free_bytes(CPU) < 1e14


def test_a_gpu_is_asked_for_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others left of it; the ranks of a host do not share it, and the compiled loss keeps its logits."""
    gpus = World(0, 8, torch.device("cuda", 0), torch.bfloat16)
    model, config = random_model(), TrainConfig(batch_tokens=64 * 32, micro_batch_rows=4)
    needed = training_bytes(model.config, 100, 4, ranks=8, keeps_logits=True)
    assert needed > training_bytes(model.config, 100, 4, ranks=8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (needed, 80 << 30))
    check_run(model, config, gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (needed - 1, 80 << 30))
    with pytest.raises(ConfigError, match="on each rank"):
        check_run(model, config, gpus)


def test_memory_that_runs_out_is_explained_and_other_errors_are_not() -> None:
    with (
        pytest.raises(ConfigError, match=r"memory ran out with micro_batch_rows 8 .*lower micro_batch_rows"),
        out_of_memory_explained(TrainConfig()),
    ):
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_explained(TrainConfig()):
        raise RuntimeError("shapes do not fit")
