"""The loss as training computes it: by which attention, in which products, compiled or not.

What is fastest on paper may not work with the installed GPU, driver and packages. So where the config leaves the choice
open, each candidate is tried on random rows before the first step, forward and backward, and must give the loss and the
gradients of the eager reference; the first that does is taken, and one line of the log says what failed and why.
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

LossSum = Callable[[Tensor, Tensor], Tensor]
"""Inputs [B, T] and targets [B, T] to the sum of the targets' losses in nats."""
BACKEND = "inductor"
"""Of `torch.compile`; tests take one that needs no C++ compiler."""
REASON = 300
"""Characters of a failure that are logged."""
TOLERANCE, GRADIENT_TOLERANCE = 0.02, 0.25
"""Largest relative differences of a loss and of a gradient from the reference: well above the rounding of bfloat16 and
8-bit products. A wrong scale moves the loss; a wrong mask flips the gradient's direction."""
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """A kernel of attention, and whether the loss is compiled."""

    attention: attention.Backend
    compiled: bool

    def __str__(self) -> str:
        return f"attention by {self.attention}, {'compiled' if self.compiled else 'not compiled'}"


def candidates(model: ModelConfig, launch: LaunchConfig, world: World) -> list[KernelChoice]:
    """What `launch` allows on this device, the fastest first.

    Raises `ConfigError` for what is asked for by name and cannot be had.
    """
    missing = launch.float8 and float8.unavailable(world.device)
    if missing:
        raise ConfigError(f"launch.float8 needs a GPU that multiplies 8-bit floats, and {missing}: set it to false")
    if launch.float8 and model.sequence_len % float8.MULTIPLE:
        raise ConfigError(
            f"launch.float8 multiplies {float8.MULTIPLE} tokens at a time: sequence_len {model.sequence_len} is no "
            "multiple of that"
        )
    compiled = launch.compiles_on(world.device.type)
    found = [KernelChoice(backend, compiled) for backend in _backends(model, launch, world, compiled)]
    if compiled and launch.compile == "auto":
        found += [KernelChoice(backend, False) for backend in _backends(model, launch, world, False)]
    if not found:
        raise ConfigError("launch.attention 'flex' is for compiled code, and launch.compile is 'never': change one")
    return found


def _backends(model: ModelConfig, launch: LaunchConfig, world: World, compiled: bool) -> Iterator[attention.Backend]:
    """Those of `launch.attention` that do something for this model, the fastest first."""
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
    """The model's loss by the fastest candidate that works, for micro-batches of `rows` rows; the model is set to it.

    Raises what the last candidate failed with, where none works.
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
        log(f"{choice}: failed when it was tried ({type(failure).__name__}: {reason}); next: {possible[0]}")
        torch.compiler.reset()


def _set(model: Transformer, choice: KernelChoice, launch: LaunchConfig) -> LossSum:
    model.set_kernels(choice.attention, launch.float8, launch.deterministic)
    return _compiled(model) if choice.compiled else model.loss_sum


def _compiled(model: Transformer) -> LossSum:
    """The loss as plain operations, which the compiler fuses from the head's product to the gradient of the logits: the
    slices of `loss_sum` are for what runs operation by operation."""

    def summed(ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return model.token_losses(ids_BT, targets_BT).sum()

    compiled = torch.compile(summed, fullgraph=True, dynamic=False, backend=BACKEND)
    # Rows are cut from longer ones in more than one way, and for other strides all would be compiled again.
    return lambda ids_BT, targets_BT: compiled(_packed(ids_BT), _packed(targets_BT))


def _packed(x: Tensor) -> Tensor:
    """With the strides of a new tensor, which `contiguous` leaves alone where a side is 1."""
    return x.reshape(-1).view(x.shape)


@dataclass(frozen=True, slots=True)
class _Reference:
    """A row [1, T + 1] of random tokens, its mean loss, and the gradient of each block's attention."""

    ids: Tensor
    loss: float
    gradient: Tensor
    """Of the matrices after attention, in one row: other keys than the right ones give another one."""


def _reference_pass(model: Transformer, world: World) -> _Reference:
    """By eager operations, which run everywhere; with one row, since they may need more memory than the candidates."""
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
    """What goes wrong on any rank with training and validation on `rows` copies of a row; None if nothing does.

    Raises `torch.OutOfMemoryError`: another candidate would not need less.
    """
    ids = reference.ids.repeat(rows, 1)
    failure: Exception | None = None
    try:
        loss, gradient = _loss_and_gradient(loss_sum, model, ids)
        with torch.no_grad():
            held_out = float(model.token_losses(ids[:, :-1], ids[:, 1:]).mean())
        for found in (loss, held_out):
            if not abs(found - reference.loss) <= TOLERANCE * reference.loss:
                failure = ValueError(f"a loss of {found:.4f} nats where plain operations give {reference.loss:.4f}")
        off = float(_norm(gradient - reference.gradient) / _norm(reference.gradient).clamp(min=TINY))
        if failure is None and not off <= GRADIENT_TOLERANCE:
            failure = ValueError(f"gradients that are off those of plain operations by {off:.0%}")
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
    loss_sum: LossSum, inputs: Tensor, targets: Tensor, micro_batch_rows: int, world: World, stop: Stop = never
) -> Tensor:
    """Backward pass over this rank's rows [B, T] in micro-batches; returns the mean loss [] over all ranks in nats.

    It stays on the device: reading it would make the host wait before it has launched the update. Once `stop` is
    true, the remaining micro-batches are left out: `ShardedOptimizer.step`, given the same `stop`, gives up the step on
    all ranks.
    """
    n_targets = world.sum((targets >= 0).sum()).clamp(min=1)
    total = torch.zeros((), device=world.device)
    for start in range(0, len(inputs), micro_batch_rows):
        if stop():
            break
        part = slice(start, start + micro_batch_rows)
        loss = loss_sum(inputs[part], targets[part]) / n_targets
        loss.backward()  # pyright: ignore[reportUnknownMemberType]  # torch leaves the types out
        total += loss.detach()
    return world.sum(total)
