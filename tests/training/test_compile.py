"""A compiled loss is the same loss; on CPUs nothing is compiled unless asked for."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.config import LaunchConfig
from aquarat_core.training import loop
from tests.model.test_transformer import MODERN
from tests.toys import CPU, random_ids, random_model


def test_on_a_cpu_the_fused_functions_stand_alone() -> None:
    model = random_model()
    for how in ("auto", "never"):
        assert loop.loss_function(model, LaunchConfig(compile=how), CPU) == model.loss_sum


@pytest.mark.parametrize("options", [{"embedding_taps": 2}, MODERN | {"window_pattern": "SL", "n_kv_head": 2}])
def test_the_compiled_loss_and_its_gradients_are_the_fused_ones(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    model, ids = random_model(**options), random_ids(2, 65)
    targets = ids[:, 1:].clone()
    targets[0, :9] = -1
    used = [p for p in model.parameters() if p.numel()]

    def measured(loss_sum: loop.LossSum) -> list[torch.Tensor]:
        loss = loss_sum(ids[:, :-1], targets) / 119
        return [loss.detach(), *torch.autograd.grad(loss, used)]

    compiled = loop.loss_function(model, LaunchConfig(compile="always"), CPU)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = measured(compiled)
        assert torch.equal(found[0], measured(compiled)[0])
    for mine, theirs in zip(found, measured(model.loss_sum), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-3)
    assert float(found[0]) > 1
