"""Gradients: summed over micro-batches, clipped, applied, or skipped when they are not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aquarat_core.config import ModelConfig, OptimConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.model.transformer import Transformer
from aquarat_core.training.loss import accumulate_loss
from aquarat_core.training.optimizer import MAX_SKIPPED, ShardedOptimizer
from tests.factories import CPU, ONE, random_ids, random_model


def rows() -> PackedRows:
    """Eight rows with a different number of targets each, which a mean of means would weigh wrongly."""
    mask = np.arange(33)[None, :] < np.array([33, 5, 20, 2, 11, 33, 8, 17])[:, None]
    return PackedRows(random_ids(8, 33).numpy(), mask)


def flat(model: Transformer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradients(model: Transformer, micro_batch_rows: int) -> tuple[float, torch.Tensor]:
    loss = accumulate_loss(model.loss_sum, *rows().tensors(np.arange(8), CPU), micro_batch_rows, ONE)
    return float(loss), torch.cat([p.grad.flatten() for p in model.parameters() if p.numel()])


@pytest.mark.parametrize("micro_batch_rows", [1, 3, 4])
def test_micro_batches_give_the_loss_and_gradient_of_the_whole(micro_batch_rows: int) -> None:
    whole_loss, whole = gradients(random_model(), 8)
    loss, parts = gradients(random_model(), micro_batch_rows)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert whole.abs().max() > 1e-3


def test_the_loss_is_the_mean_over_target_tokens() -> None:
    model = random_model()
    inputs, targets = rows().tensors(np.arange(8), torch.device("cpu"))
    with torch.no_grad():
        losses = model.token_losses(inputs, targets)
    loss, _ = gradients(model, 4)
    assert loss == pytest.approx(float(losses.sum()) / int((targets >= 0).sum()), rel=1e-6)


def updated(model: Transformer, scale: float, **config: float | None) -> dict[str, float]:
    """One step on gradients of norm 5 x scale: 3 in the first weight of the embedding, 4 in the first of the head."""
    model.embedding.weight.grad = torch.zeros_like(model.embedding.weight)
    model.head.weight.grad = torch.zeros_like(model.head.weight)
    model.embedding.weight.grad[0, 0], model.head.weight.grad[0, 0] = 3 * scale, 4 * scale
    return ShardedOptimizer(model, OptimConfig(warmdown=0.0, **config), 10, ONE).step(0)


def test_the_reported_norm_is_that_before_clipping() -> None:
    assert updated(random_model(), 2.0, grad_clip=1.0)["train/grad_norm"] == pytest.approx(10.0)
    assert updated(random_model(), 0.1, grad_clip=None)["train/grad_norm"] == pytest.approx(0.5)


@pytest.mark.parametrize(("scale", "grad_clip", "kept"), [(2.0, 1.0, 0.1), (0.1, 1.0, 1.0), (2.0, None, 1.0)])
def test_only_a_norm_above_the_clip_is_scaled_to_it(scale: float, grad_clip: float | None, kept: float) -> None:
    model = random_model()
    optimizer = ShardedOptimizer(model, OptimConfig(grad_clip=grad_clip), 10, ONE)
    model.head.weight.grad = torch.zeros_like(model.head.weight)
    model.head.weight.grad[0, 0] = 5 * scale
    optimizer.step(0)
    moments = optimizer.moments["head.weight", 0]
    assert float(moments["first"][0, 0]) == pytest.approx((1 - 0.8) * 5 * scale * kept, rel=1e-4)


def test_gradients_are_cleared_and_parameters_without_one_stay() -> None:
    model = random_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    updated(model, 1.0)
    assert all(p.grad is None for p in model.parameters())
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"embedding.weight", "head.weight"}
    assert int((model.head.weight != before["head.weight"]).sum()) == 1


def test_the_schedule_scales_the_step() -> None:
    def moved(step: int) -> float:
        model = random_model()
        start = float(model.head.weight[0, 0].detach())
        optimizer = ShardedOptimizer(model, OptimConfig(unembedding_lr=0.004, warmdown=1.0), 4, ONE)
        model.head.weight.grad = torch.ones_like(model.head.weight)
        assert optimizer.step(step)["train/lr_factor"] == pytest.approx(0.8 - 0.2 * step)
        return start - float(model.head.weight[0, 0].detach())

    assert moved(0) == pytest.approx(0.8 * 0.004 * (32 / 768) ** -0.5, rel=1e-3)
    assert moved(3) == pytest.approx(moved(0) / 4, rel=1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing_and_too_many_stop_the_run(bad: float) -> None:
    model = random_model()
    optimizer, before = ShardedOptimizer(model, OptimConfig(), 100, ONE), flat(model)
    for step in range(MAX_SKIPPED):
        model.head.weight.grad = torch.full_like(model.head.weight, bad)
        assert optimizer.step(step)["train/skipped_steps"] == step + 1
    assert torch.equal(flat(model), before)
    model.head.weight.grad = torch.full_like(model.head.weight, bad)
    with pytest.raises(FloatingPointError, match="step 10: the gradient was not finite 11 times; lower lr_scale"):
        optimizer.step(MAX_SKIPPED)


def test_the_first_step_of_the_lambdas_is_not_made_of_rounding() -> None:
    """As the model starts, blocks add nothing: what scales the stream has a gradient of rounding alone."""
    config = ModelConfig(depth=3, width_per_layer=32, head_size=16, residual_lambdas=True, backout=True)
    model = Transformer(config, 100)
    model.init_weights(torch.Generator().manual_seed(0))
    optimizer, seen = ShardedOptimizer(model, OptimConfig(warmdown=0.0), 10, ONE), []
    for step in range(2):
        accumulate_loss(model.loss_sum, *rows().tensors(np.arange(8), CPU), 8, ONE)
        before = model.backout_lambda.item(), *model.embedding_lambdas.tolist()
        gradient = model.backout_lambda.grad.abs().item()
        optimizer.step(step)
        after = model.backout_lambda.item(), *model.embedding_lambdas.tolist()
        seen.append((gradient, max(abs(a - b) for a, b in zip(after, before, strict=True))))
    (rounding, first), (real, second) = seen
    assert rounding < 1e-7 and first < 0.01
    assert real > 1e-4 and second > 0.1


def taught(model: Transformer) -> ShardedOptimizer:
    """An optimizer in whose moments two steps are left, with everything that moves weights switched on."""
    optimizer = ShardedOptimizer(model, OptimConfig(warmdown=0.0, weight_decay=0.1), 100, ONE)
    for step in range(2):
        accumulate_loss(model.loss_sum, *rows().tensors(np.arange(8), CPU), 8, ONE)
        optimizer.step(step)
    return optimizer


def moments(optimizer: ShardedOptimizer) -> dict[tuple[str, int, str], torch.Tensor]:
    return {(*key, kind): x.clone() for key, kinds in optimizer.moments.items() for kind, x in kinds.items()}


def test_a_step_without_a_gradient_is_as_if_it_had_not_been() -> None:
    quiet, other = random_model(), random_model()
    optimizer, undisturbed = taught(quiet), taught(other)
    before, moments_before = flat(quiet), moments(optimizer)
    assert max(float(x.abs().max()) for x in moments_before.values()) > 0
    for silent in (1, 2, 3):
        found = optimizer.step(2)
        assert (found["train/grad_norm"], found["train/silent_steps"]) == (0.0, silent)
    assert torch.equal(flat(quiet), before)
    assert all(torch.equal(x, moments_before[key]) for key, x in moments(optimizer).items())
    # The next step that has one goes on exactly where the last one was.
    for model, mine in ((quiet, optimizer), (other, undisturbed)):
        accumulate_loss(model.loss_sum, *rows().tensors(np.arange(8), CPU), 8, ONE)
        mine.step(2)
    assert torch.equal(flat(quiet), flat(other))


@pytest.mark.parametrize("name", ["blocks.1.attention.q.weight", "embedding.weight", "head.weight"])
def test_one_parameter_without_a_gradient_stays_while_the_others_move(name: str) -> None:
    model = random_model()
    optimizer = taught(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.numel()}
    kept = {key: x for key, x in moments(optimizer).items() if key[0] == name}
    accumulate_loss(model.loss_sum, *rows().tensors(np.arange(8), CPU), 8, ONE)
    model.get_parameter(name).grad.zero_()
    optimizer.step(2)
    changed = {n for n, x in before.items() if not torch.equal(x, model.get_parameter(n))}
    assert changed == set(before) - {name}
    assert kept and all(torch.equal(x, moments(optimizer)[key]) for key, x in kept.items())


def test_a_state_from_before_silent_steps_were_counted_is_read() -> None:
    optimizer = taught(random_model())
    state = optimizer.state_dict()
    del state["silent"]
    optimizer.load_state_dict(state)
    assert (optimizer.silent, optimizer.applied) == (0, 2)
