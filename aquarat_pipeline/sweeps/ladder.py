"""The ladder of a sweep: what models of growing size reach, and a curve through it.

The curve is that of Hoffmann et al. 2022 (arXiv 2203.15556), L = E + A / N^a + B / D^b, for N weights of matrix
products and D training tokens. Where only one of the two varies, or both grow together, their effects cannot be told
apart: then L = E + A / C^a is fitted, for C = 6 N D FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from aquarat_core.artifacts import Artifact
from aquarat_core.config.accounting import scaling_parameters
from aquarat_core.stages.costs import pretraining_steps
from aquarat_pipeline.sweeps.spec import Point

ILL_CONDITIONED = 1e8
"""Condition number of the scaled least-squares problem above which its exponents mean nothing."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rung:
    """One model of the ladder."""

    depth: int
    parameters: int
    """Weights of matrix products."""
    tokens: int
    bits_per_byte: float | None
    accuracy: float | None
    """Of the last eval report that is there."""
    hours: float
    """Of pretraining."""
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """A fitted curve of bits per byte."""

    form: str
    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """Of 95 %, from the curvature of the fit."""
    rms: float
    """Root of the mean squared residual, in bits per byte."""
    condition: float
    note: str

    def text(self) -> str:
        """The curve for people."""
        values = ", ".join(
            f"{name} = {value:.4g} [{self.intervals[name][0]:.3g}, {self.intervals[name][1]:.3g}]"
            for name, value in self.parameters.items()
        )
        return f"Bits per byte: {self.form}, with {values}; residuals {self.rms:.4f}. {self.note}".rstrip()


def rung_of(point: Point, made: dict[str, Artifact], price: float | None) -> Rung | None:
    """The measured results of a point's model; None if it has not been made. `price` is for one GPU and hour; the
    number of GPUs is that of the training, which may differ from the profile's."""
    base = made.get("base_checkpoint")
    if base is None:
        return None
    profile = point.experiment.profile
    V, config = profile.tokenizer.vocab_size, profile.base_checkpoint
    report = made.get("base_eval_report")
    bpb = _number(report, "bpb") if report else None
    last = next((a for name, a in reversed(made.items()) if name.endswith("_eval_report")), None)
    hours = (_number(base, "seconds") or 0.0) / 3600
    ranks = _number(base, "ranks") or config.launch.nproc
    return Rung(
        config.model.depth,
        scaling_parameters(config.model, V),
        pretraining_steps(config, V) * config.batch_tokens,
        bpb if bpb is not None else _number(base, "val_bpb"),
        _number(last, "accuracy") if last else None,
        hours,
        None if price is None else hours * ranks * price,
    )


def fitted(rungs: Sequence[Rung]) -> Curve | str:
    """The curve through bits per byte, or why there is none."""
    known = [(r.parameters, r.tokens, r.bits_per_byte) for r in rungs if r.bits_per_byte is not None]
    N, D, L = (np.array(column, dtype=float) for column in zip(*known, strict=True)) if known else (np.array([]),) * 3
    sizes, amounts = len(set(N)), len(set(D))
    if len(known) >= 6 and sizes >= 3 and amounts >= 3:
        curve = _fit(
            "E + A / N^a + B / D^b", ("E", "A", "a", "B", "b"),
            lambda p: p[0] + np.exp(p[1]) * _unit(N) ** -p[2] + np.exp(p[3]) * _unit(D) ** -p[4],
            L, [float(L.min()) * 0.8, math.log(float(np.ptp(L)) + 1e-3), 0.3, math.log(float(np.ptp(L)) + 1e-3), 0.3],
            (_middle(N), _middle(D)),
        )  # fmt: skip
        if curve.condition <= ILL_CONDITIONED:
            return curve
    if (different := len(set(N * D))) >= 4:
        C = 6 * N * D
        curve = _fit(
            "E + A / C^a", ("E", "A", "a"), lambda p: p[0] + np.exp(p[1]) * _unit(C) ** -p[2],
            L, [float(L.min()) * 0.8, math.log(float(np.ptp(L)) + 1e-3), 0.3], (_middle(C),),
            "To tell size and data apart, give at least three depths and several tokens_per_parameter.",
        )  # fmt: skip
        if curve.condition <= ILL_CONDITIONED:
            return curve
        return "No curve: the points are too close together, or do not bend, so its exponents would mean nothing."
    return (
        "No curve: it needs bits per byte of at least 4 models that differ in weights times tokens, and there are "
        f"{different}."
    )


def _fit(
    form: str,
    names: tuple[str, ...],
    curve: Callable[[Any], Array],
    L: Array,
    start: Sequence[float],
    middles: tuple[float, ...],
    note: str = "",
) -> Curve:
    """Least squares with sizes in units of their geometric mean, which keeps the problem well-conditioned; the factors
    A and B are then those for the sizes themselves."""
    low = [0.0, *([-20.0, 0.01] * len(middles))]
    high = [float(L.min()), *([20.0, 3.0] * len(middles))]
    found = optimize.least_squares(lambda p: curve(p) - L, start, bounds=(low, high), x_scale="jac", max_nfev=20_000)
    J = cast("Array", found.jac)
    scale = np.linalg.norm(J, axis=0)
    condition = float(np.linalg.cond(J / np.where(scale > 0, scale, 1.0))) if (scale > 0).all() else math.inf
    free = max(1, len(L) - len(start))
    residual = float((found.fun**2).sum())
    spread = np.sqrt(np.clip(np.diag(np.linalg.pinv(J.T @ J)) * residual / free, 0, None))
    width = float(stats.t.ppf(0.975, free)) * spread
    values, intervals = dict[str, float](), dict[str, tuple[float, float]]()
    for i, name in enumerate(names):
        lo, at, hi = (float(found.x[i] + sign * width[i]) for sign in (-1, 0, 1))
        if name in ("A", "B"):
            # The interval is that of the factor where sizes are in their own unit.
            shift = float(found.x[i + 1]) * math.log(middles["AB".index(name)])
            lo, at, hi = (math.exp(min(value + shift, 700.0)) for value in (lo, at, hi))
        values[name], intervals[name] = at, (lo, hi)
    return Curve(form, values, intervals, math.sqrt(residual / len(L)), condition, note)


def _unit(values: Array) -> Array:
    return values / _middle(values)


def _middle(values: Array) -> float:
    return float(np.exp(np.log(values).mean()))


def _number(artifact: Artifact, name: str) -> float | None:
    value = artifact.manifest.metrics.get(name)
    return float(value) if isinstance(value, (int, float)) else None
