"""A compiled loss is the same loss; on CPUs nothing is compiled unless asked for; what fails when tried gives way."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.config import ConfigError, LaunchConfig, ModelConfig
from aquarat_core.model import attention, fused
from aquarat_core.runtime.distributed import World
from aquarat_core.training import loss
from aquarat_core.training.loss import KernelChoice, accumulate_loss, candidates, loss_function
from tests.factories import ONE, random_ids, random_model
from tests.model.test_transformer import MODERN

pytestmark = pytest.mark.slow

WINDOWS = ModelConfig(head_size=64, window_pattern="SL", sequence_len=2048)
WHOLE = ModelConfig(head_size=64, sequence_len=2048)
GPU = World(0, 1, torch.device("cuda"), torch.bfloat16)


def silent(text: str) -> None:
    raise AssertionError(f"nothing is to be logged: {text}")


def test_on_a_cpu_the_fused_functions_stand_alone() -> None:
    model = random_model()
    for how in ("auto", "never"):
        assert loss_function(model, LaunchConfig(compile=how), ONE, 2, silent) == model.loss_sum


@pytest.mark.parametrize("options", [{"embedding_taps": 2}, MODERN | {"window_pattern": "SL", "n_kv_head": 2}])
def test_the_compiled_loss_and_its_gradients_are_the_fused_ones(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    model, ids = random_model(**options), random_ids(2, 65)
    targets = ids[:, 1:].clone()
    targets[0, :9] = -1
    used = [p for p in model.parameters() if p.numel()]

    def measured(loss_sum: loss.LossSum) -> list[torch.Tensor]:
        value = loss_sum(ids[:, :-1], targets) / 119
        return [value.detach(), *torch.autograd.grad(value, used)]

    compiled = loss_function(model, LaunchConfig(compile="always"), ONE, 2, silent)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = measured(compiled)
        assert torch.equal(found[0], measured(compiled)[0])
    for mine, theirs in zip(found, measured(model.loss_sum), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-3)
    assert float(found[0]) > 1


def test_rows_of_any_layout_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried before the first step, rows of conversations and rows of text are cut in different ways."""
    monkeypatch.setattr(loss, "BACKEND", "aot_eager")
    monkeypatch.setattr(loss, "candidates", lambda *given: [KernelChoice("sdpa", True), EAGER])
    for rows in (2, 1):
        torch._dynamo.reset()
        loss_sum = loss_function(random_model(sequence_len=32), LaunchConfig(), ONE, rows, silent)
        ids = random_ids(2 * rows, 33)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for targets in (ids[:, 1:], ids[:, 1:].clone()):
                accumulate_loss(loss_sum, ids[:, :-1], targets, rows, ONE)


# --- which candidates there are --------------------------------------------------------------------------------------

EAGER = KernelChoice("sdpa", False)


@pytest.mark.parametrize(
    ("model", "launch", "capability", "package", "expected"),
    [
        (WHOLE, {}, (8, 0), True, [KernelChoice("flex", True), KernelChoice("sdpa", True), EAGER]),
        (WHOLE, {"deterministic": False}, (8, 0), True, [KernelChoice("sdpa", True), EAGER]),
        (WINDOWS, {}, (8, 0), True, [KernelChoice("flex", True), KernelChoice("sdpa", True), EAGER]),
        (WINDOWS, {}, (9, 0), False, [KernelChoice("flex", True), KernelChoice("sdpa", True), EAGER]),
        (WINDOWS, {}, (9, 0), True,
         [*(KernelChoice(x, True) for x in ("fa3", "flex", "sdpa")), KernelChoice("fa3", False), EAGER]),
        (WINDOWS, {"compile": "never"}, (9, 0), True, [KernelChoice("fa3", False), EAGER]),
        (WINDOWS, {"compile": "always", "attention": "sdpa"}, (9, 0), True, [KernelChoice("sdpa", True)]),
        (WINDOWS, {"attention": "flex"}, (9, 0), True, [KernelChoice("flex", True)]),
        (WINDOWS, {"compile": "never", "attention": "fa3"}, (9, 0), True, [KernelChoice("fa3", False)]),
    ],
)  # fmt: skip
def test_the_fastest_way_comes_first(model, launch, capability, package, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(attention, "find_flash_attention_3", lambda: print if package else None)
    assert candidates(model, LaunchConfig(**launch), GPU) == expected


def test_what_is_asked_for_by_name_and_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ConfigError, match=r"launch\.attention is 'fa3', but it is made for Hopper .* set it to 'auto'"):
        candidates(WHOLE, LaunchConfig(attention="fa3"), GPU)
    with pytest.raises(ConfigError, match=r"launch\.attention is 'flex', but it needs a GPU, but this is cpu"):
        candidates(WINDOWS, LaunchConfig(attention="flex"), ONE)
    with pytest.raises(ConfigError, match=r"'flex' is for compiled code, but launch\.compile is 'never': change one"):
        candidates(WINDOWS, LaunchConfig(attention="flex", compile="never"), GPU)


# --- and what happens to those that do not work -----------------------------------------------------------------------


def broken(graph: torch.fx.GraphModule, inputs: list) -> None:
    raise RuntimeError("no kernel image is available\nand more")


def wrong(graph: torch.fx.GraphModule, inputs: list):
    return lambda *given: tuple(1.1 * x if x.is_floating_point() else x for x in graph(*given))


@pytest.mark.parametrize(
    ("backend", "said"), [(broken, "no kernel image is available"), (wrong, "nats, but eager operations give")]
)
def test_a_way_that_fails_when_tried_gives_way(backend, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(loss, "BACKEND", backend)
    monkeypatch.setattr(loss, "candidates", lambda *given: [KernelChoice("sdpa", True), EAGER])
    model, lines = random_model(), []
    assert loss_function(model, LaunchConfig(), ONE, 2, lines.append) == model.loss_sum
    (line,) = lines
    assert line.startswith("attention by sdpa, compiled: failed its trial (") and said in line
    assert line.endswith("; next: attention by sdpa, not compiled") and "\n" not in line
    assert all(p.grad is None for p in model.parameters())


def test_a_kernel_that_looks_too_far_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its gradient: a loss on random tokens may change little."""
    monkeypatch.setattr(loss, "TOLERANCE", float("inf"))
    monkeypatch.setattr(attention, "_flash_attn_func", lambda q, k, v, causal, window_size: v)
    monkeypatch.setattr(fused, "enabled", False)
    monkeypatch.setattr(loss, "candidates", lambda *given: [KernelChoice("fa3", False), EAGER])
    model, lines = random_model(dtype=torch.bfloat16), []
    assert loss_function(model, LaunchConfig(), ONE, 2, lines.append) == model.loss_sum
    (line,) = lines
    assert (
        line.startswith("attention by fa3, not compiled: failed")
        and "gradients that differ from those of eager operations by" in line
    )
    assert {block.attention.backend for block in model.blocks} == {"sdpa"}


def test_the_last_way_s_failure_is_the_run_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "candidates", lambda *given: [EAGER, EAGER])
    model = random_model()
    model.loss_sum = lambda ids, targets: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        loss_function(model, LaunchConfig(), ONE, 2, lambda text: None)


def test_memory_that_runs_out_is_no_reason_to_try_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loss, "candidates", lambda *given: [EAGER, EAGER])
    model = random_model()
    model.loss_sum = full  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        loss_function(model, LaunchConfig(), ONE, 2, silent)
