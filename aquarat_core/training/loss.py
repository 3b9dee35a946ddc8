"""Chooses how training computes the loss: attention kernel, type of products, compiled or not.

The option that should be fastest may not work with the installed GPU, driver and packages. So if the config leaves the
choice open, each candidate runs a forward and backward pass on random rows before the first step, and must match the
loss and gradients of the eager reference. The first that does is used, and a line in the log says what failed and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aquarat_core.config import ConfigError, LaunchConfig, ModelConfig
from aquarat_core.model import attention, float8
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.preemption import Stop, never
from aquarat_core.training.buckets import GradientExchange

LossSum = Callable[[Tensor, Tensor], Tensor]
"""Maps inputs [B, T] and targets [B, T] to the sum of the targets' losses in nats."""
BACKEND = "inductor"
"""Backend of `torch.compile`; tests use one that needs no C++ compiler."""
REASON = 300
"""Maximum number of characters of a failure in the log."""
TOLERANCE, GRADIENT_TOLERANCE = 0.02, 0.25
"""Maximum relative differences of the loss and of a gradient from the reference: well above the rounding of bfloat16
and 8-bit products. A wrong scale changes the loss; a wrong mask flips the gradient's direction."""
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """An attention kernel, and whether the loss is compiled."""

    attention: attention.Backend
    compiled: bool

    def __str__(self) -> str:
        return f"attention by {self.attention}, {'compiled' if self.compiled else 'not compiled'}"


def candidates(model: ModelConfig, launch: LaunchConfig, world: World) -> list[KernelChoice]:
    """The options that `launch` allows on this device, the fastest first.

    Raises `ConfigError` for an option that is requested by name but not available.
    """
    missing = launch.float8 and float8.unavailable(world.device)
    if missing:
        raise ConfigError(f"launch.float8 needs a GPU that multiplies 8-bit floats, but {missing}: set it to false")
    if launch.float8 and model.sequence_len % float8.MULTIPLE:
        raise ConfigError(
            f"launch.float8 multiplies {float8.MULTIPLE} tokens at a time: sequence_len {model.sequence_len} is not "
            "a multiple of that"
        )
    compiled = launch.compiles_on(world.device.type)
    found = [KernelChoice(backend, compiled) for backend in _backends(model, launch, world, compiled)]
    if compiled and launch.compile == "auto":
        found += [KernelChoice(backend, False) for backend in _backends(model, launch, world, False)]
    if not found:
        raise ConfigError("launch.attention 'flex' is for compiled code, but launch.compile is 'never': change one")
    return found


def _backends(model: ModelConfig, launch: LaunchConfig, world: World, compiled: bool) -> Iterator[attention.Backend]:
    """The backends in `launch.attention` that make a difference for this model, the fastest first."""
    chosen = launch.attention != "auto"
    for backend in ("fa3", "flex", "sdpa"):
        if chosen and launch.attention != backend:
            continue
        missing = attention.unavailable(backend, world.device, world.compute_dtype, model.head_size)
        if missing and chosen:
            raise ConfigError(f"launch.attention is {backend!r}, but {missing}: set it to 'auto'")
        serves = launch.deterministic or min(model.windows) < model.sequence_len
        useless = backend == "flex" and not (compiled and (serves or chosen))
        if not missing and not useless:
            yield backend


def loss_function(
    model: Transformer, launch: LaunchConfig, world: World, rows: int, log: Callable[[str], None]
) -> LossSum:
    """The model's loss with the fastest candidate that works for micro-batches of `rows` rows; configures the model for
    it.

    Raises the last candidate's error if none works.
    """
    possible = candidates(model.config, launch, world)
    if len(possible) == 1:
        return _set(model, possible[0], launch)
    reference = _reference_pass(model, world)
    while True:
        choice = possible.pop(0)
        loss_sum = _set(model, choice, launch)
        failure = _failure(loss_sum, model, rows, reference, world)
        if failure is None:
            return loss_sum
        if not possible:
            raise failure
        reason = " ".join(str(failure).split())[:REASON]
        log(f"{choice}: failed its trial ({type(failure).__name__}: {reason}); next: {possible[0]}")
        torch.compiler.reset()


def _set(model: Transformer, choice: KernelChoice, launch: LaunchConfig) -> LossSum:
    model.set_kernels(choice.attention, launch.float8, launch.deterministic)
    return _compiled(model) if choice.compiled else model.loss_sum


def _compiled(model: Transformer) -> LossSum:
    """The loss in plain operations, which the compiler fuses from the head's product to the gradient of the logits. The
    slices in `loss_sum` are only for eager code."""

    def summed(ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return model.token_losses(ids_BT, targets_BT).sum()

    compiled = torch.compile(summed, fullgraph=True, dynamic=False, backend=BACKEND)
    # Rows are cut from longer ones in more than one way, and other strides would cause recompilation.
    return lambda ids_BT, targets_BT: compiled(_packed(ids_BT), _packed(targets_BT))


def _packed(x: Tensor) -> Tensor:
    """A copy with the strides of a new tensor; `contiguous` keeps others if a dimension is 1."""
    return x.reshape(-1).view(x.shape)


@dataclass(frozen=True, slots=True)
class _Reference:
    """A row [1, T + 1] of random tokens, its mean loss, and the gradient of each block's attention."""

    ids: Tensor
    loss: float
    gradient: Tensor
    """Gradients of the matrices after attention, as one row; attending to wrong keys would change them."""


def _reference_pass(model: Transformer, world: World) -> _Reference:
    """Computed eagerly, which works everywhere, and on one row, because eager code may need more memory."""
    model.set_kernels("sdpa")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.vocab_size, (1, model.config.sequence_len + 1), generator=generator).to(world.device)
    return _Reference(ids, *_loss_and_gradient(model.loss_sum, model, ids))


def _loss_and_gradient(loss_sum: LossSum, model: Transformer, ids: Tensor) -> tuple[float, Tensor]:
    inputs, targets = ids[:, :-1], ids[:, 1:]
    loss = loss_sum(inputs, targets) / targets.numel()
    loss.backward()  # pyright: ignore[reportUnknownMemberType]  # torch leaves the types out
    gradients: list[Tensor] = []
    for layer in range(model.config.depth):
        gradient = model.get_parameter(f"blocks.{layer}.attention.out.weight").grad
        assert gradient is not None, f"layer {layer} has no part in the loss"
        gradients.append(gradient.flatten())
    _clear(model)
    return float(loss.detach()), torch.cat(gradients)


def _failure(loss_sum: LossSum, model: Transformer, rows: int, reference: _Reference, world: World) -> Exception | None:
    """The error of any rank in training or validation on `rows` copies of a row; None if there is none.

    Raises `torch.OutOfMemoryError`, because another candidate would not need less memory.
    """
    ids = reference.ids.repeat(rows, 1)
    failure: Exception | None = None
    try:
        loss, gradient = _loss_and_gradient(loss_sum, model, ids)
        with torch.no_grad():
            held_out = float(model.token_losses(ids[:, :-1], ids[:, 1:]).mean())
        for found in (loss, held_out):
            if not abs(found - reference.loss) <= TOLERANCE * reference.loss:
                failure = ValueError(f"a loss of {found:.4f} nats, but eager operations give {reference.loss:.4f}")
        off = float(_norm(gradient - reference.gradient) / _norm(reference.gradient).clamp(min=TINY))
        if failure is None and not off <= GRADIENT_TOLERANCE:
            failure = ValueError(f"gradients that differ from those of eager operations by {off:.0%}")
    except torch.OutOfMemoryError:
        raise
    except Exception as e:
        failure = e
    _clear(model)
    failed = world.sum(torch.tensor([0.0 if failure is None else 1.0], device=world.device))
    if failure is None and float(failed):
        failure = RuntimeError("it failed on another rank")
    return failure


def _norm(x: Tensor) -> Tensor:
    return x.norm()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # torch leaves the types out


def _clear(model: Transformer) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def accumulate_loss(
    loss_sum: LossSum,
    inputs: Tensor,
    targets: Tensor,
    micro_batch_rows: int,
    world: World,
    stop: Stop = never,
    exchange: GradientExchange | None = None,
) -> Tensor:
    """Backward pass over this rank's rows [B, T] in micro-batches; returns the mean loss [] over all ranks in nats.

    The result stays on the device: reading it would make the host wait before it has launched the update. Once `stop`
    returns true, the remaining micro-batches are skipped; `ShardedOptimizer.step`, with the same `stop`, then abandons
    the step on all ranks. With an `exchange`, the last backward pass sends the gradients.
    """
    n_targets = world.sum((targets >= 0).sum()).clamp(min=1)
    total = torch.zeros((), device=world.device)
    for start in range(0, len(inputs), micro_batch_rows):
        if stop():
            break
        part = slice(start, start + micro_batch_rows)
        loss = loss_sum(inputs[part], targets[part]) / n_targets
        if exchange is not None and part.stop >= len(inputs):
            exchange.last_pass()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]  # torch leaves the types out
        total += loss.detach()
    if exchange is not None:
        exchange.send_rest()
    return world.sum(total)
