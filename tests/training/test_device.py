"""What training does to a GPU, without one: tensors that have a device and a shape and no values.

On such tensors everything that would make the host wait for the device (reading a number, asking whether one is true, a
shape that depends on values) raises, and so does a tensor of the CPU among those of the device. torch's autograd engine
wants a driver for the name "cuda", so the backward pass runs under the name of a device that has none; what torch
chooses by the name "cuda", its kernels of attention, is run forward.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aquarat_core.config import ModelConfig, OptimConfig, TrainConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.training import optimizer as optimizer_module
from aquarat_core.training.loop import train
from aquarat_core.training.loss import accumulate_loss
from aquarat_core.training.optimizer import ShardedOptimizer
from tests.factories import context, random_ids, random_model, session
from tests.model.test_transformer import MODERN

pytestmark = pytest.mark.slow

DRIVERLESS = torch.device("lazy:0")
OPTIONS = {
    "classic": {},
    "modern": MODERN | {"window_pattern": "SSL", "n_kv_head": 2},
    "taps": {"embedding_taps": 2, "mimetic_init": True},
}
SHAPE = {"depth": 3, "width_per_layer": 128, "head_size": 64, "sequence_len": 256}


@pytest.fixture
def unreal() -> Iterator[FakeTensorMode]:
    with FakeTensorMode() as mode:
        yield mode


def model_on(device: torch.device, **options) -> Transformer:
    with device:
        return Transformer(ModelConfig(**SHAPE | options), 1000, torch.bfloat16)


def rows_on(device: torch.device, rows: int = 3) -> tuple[Tensor, Tensor]:
    ids = torch.zeros((rows, 257), dtype=torch.long, device=device)
    return ids[:, :-1], ids[:, 1:]


def test_what_would_have_the_host_wait_raises(unreal: FakeTensorMode) -> None:
    x = torch.ones(4, device=DRIVERLESS)
    for waits in (lambda: x.sum().item(), lambda: bool(x[0] > 0), lambda: float(x[0])):
        with pytest.raises(DataDependentOutputException):
            waits()
    with pytest.raises(RuntimeError, match="device"):
        x + torch.ones(4)


@pytest.mark.parametrize("float8", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_never_has_the_host_wait_but_for_the_norm(
    options: str, float8: bool, unreal: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_on(DRIVERLESS, **OPTIONS[options])
    model.set_kernels("sdpa", float8)
    world = World(0, 1, DRIVERLESS, torch.bfloat16)
    optimizer = ShardedOptimizer(model, OptimConfig(weight_decay=0.1), 10, world)
    read: list[Tensor] = []
    monkeypatch.setattr(optimizer_module, "read", lambda x: read.append(x) or [1.0, 0.0, *[1.0] * (len(x) - 2)])
    for step, loss_of in enumerate((model.loss_sum, lambda ids, targets: model.token_losses(ids, targets).sum())):
        loss = accumulate_loss(loss_of, *rows_on(DRIVERLESS), 2, world)
        assert loss.device == DRIVERLESS and loss.shape == ()
        assert all(p.grad.device == DRIVERLESS and p.grad.shape == p.shape for p in optimizer.parameters)
        metrics = optimizer.step(step)
        assert metrics["train/skipped_steps"] == 0
    # The global norm, whether any rank stops, and the norms of all parameters, at once, once a step.
    assert [x.shape for x in read] == [torch.Size([2 + len(optimizer.moments)])] * 2


@pytest.mark.parametrize("options", OPTIONS)
def test_the_kernels_of_a_gpu_take_the_shapes_of_the_model(options: str, unreal: FakeTensorMode) -> None:
    """Validation as it is on a GPU, and the logits."""
    device = torch.device("cuda:0")
    model = model_on(device, **OPTIONS[options])
    with torch.no_grad():
        inputs, targets = rows_on(device)
        losses = model.token_losses(inputs, targets)
        assert (losses.device, losses.dtype, losses.shape) == (device, torch.float32, (3, 256))
        assert model(inputs).shape == (3, 256, 1000)


class Reads(TorchDispatchMode):
    """Counts the numbers that the host reads from tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_loop_reads_twice_a_step(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norms, which wait, and after them the loss, which is there by then."""
    rows = PackedRows(random_ids(16, 65).numpy())

    norms: list[Tensor] = []
    original = optimizer_module.read
    monkeypatch.setattr(optimizer_module, "read", lambda x: norms.append(x) or original(x))

    def reads(steps: int) -> int:
        config = TrainConfig(steps=steps, batch_tokens=128, micro_batch_rows=1, eval_every=1000, eval_tokens=64)
        token_bytes = np.ones(100, np.int32)
        with Reads() as counted:
            train(session(config, context(tmp_path)), random_model(), rows, rows, token_bytes)
        return counted.count

    assert reads(5) - reads(2) == 3
    assert len(norms) == 5 + 2
