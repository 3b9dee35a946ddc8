"""The part of `aquarat plan` that is computed for GPUs that need not be there: memory, steps, hours, disk and cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from aquarat_core.cli.table import table

if TYPE_CHECKING:
    from aquarat_core.stages.forecast import Forecast, Gpus
    from aquarat_pipeline.runs.planning import Planned

DEFAULT_KIND = "H100"
PARTS = (
    "weights", "gradients", "exchange", "optimizer", "activations", "logits", "reference", "sampler", "rollout_cache",
)  # fmt: skip


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options that say for which GPUs the numbers are computed."""
    group = command.add_argument_group("GPUs for which memory, hours and cost are computed; they need not be there")
    group.add_argument(
        "--gpu", metavar="KIND", help=f"such as A100 or L40S (that of the listed host, else {DEFAULT_KIND})"
    )
    group.add_argument("--gpus", type=int, metavar="N", help="GPUs of each stage (launch.nproc of the profile)")
    group.add_argument("--price", type=float, metavar="DOLLARS", help="price of one GPU for an hour")
    group.add_argument("--utilization", type=float, metavar="SHARE", help="share of the bf16 peak in training (0.38)")


def is_asked(arguments: argparse.Namespace) -> bool:
    """Whether an option describes GPUs that need not be there."""
    return any(vars(arguments).get(name) is not None for name in ("gpu", "gpus", "price", "utilization"))


@dataclass(frozen=True, slots=True)
class Computed:
    """The numbers of a plan's stages, the same as text, and why some of them cannot run on the GPUs that were named."""

    numbers: list[dict[str, Any]]
    text: str
    problem: str | None


def computed(arguments: argparse.Namespace, plan: Planned) -> Computed:
    """Nothing for a plan without stages on GPUs. What does not fit is only a problem on GPUs that `--gpu` names: else
    nobody has said that it should run on these.

    Raises `ConfigError` and `UsageError`.
    """
    from aquarat_core.config import override
    from aquarat_core.config.overrides import overrides
    from aquarat_core.stages.forecast import forecast

    (gpus, ranks), profile = gpus_of(arguments), plan.experiment.profile
    profile = override(profile, dict(overrides(profile, plan.fields)))
    found = forecast(profile, gpus, ranks=ranks, only=plan.wanted)
    trained = [one for one in found if one.ranks]
    if not trained:
        return Computed([], "", None)
    short = "; ".join(one.problem for one in trained if one.problem)
    parts = [_about(trained, gpus), _table(found), _memory(trained), short]
    text = "".join(f"\n\n{part}" for part in parts if part)
    return Computed([asdict(one) for one in found], text, (short or None) if vars(arguments).get("gpu") else None)


def gpus_of(arguments: argparse.Namespace) -> tuple[Gpus, int | None]:
    """The GPUs that the options describe, and how many. Raises `UsageError`."""
    from aquarat_core.errors import UsageError
    from aquarat_core.runtime.peaks import UTILIZATION
    from aquarat_core.stages.forecast import Gpus

    # Other commands that show a plan do not have all of these options.
    kind, ranks, price, share = (vars(arguments).get(name) for name in ("gpu", "gpus", "price", "utilization"))
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"--utilization {share:g} is not a share of the peak between 0 and 1")
    for option, value in (("--gpus", ranks), ("--price", price)):
        if value is not None and not value > 0:
            raise UsageError(f"{option} {value:g} must be more than 0")
    return Gpus(kind or DEFAULT_KIND, price, UTILIZATION if share is None else share), ranks


def _about(trained: Sequence[Forecast], gpus: Gpus) -> str:
    from aquarat_core.config.accounting import QUESTION_TOKENS

    counts = sorted({one.ranks for one in trained})
    price = "" if gpus.price is None else f", ${gpus.price:g} each an hour"
    return (
        f"Computed, not measured, for {' or '.join(map(str, counts))} x {gpus.kind}{price}, training at "
        f"{gpus.utilization:.0%} of the bf16 peak (measured for d12 on one H100).\nIn RL and "
        f"evaluation no answer ends early, and a question has {QUESTION_TOKENS} tokens. {_uncounted(trained)}Start-up, "
        "downloads, and validation and samples during training come on top; the column download has pretraining text "
        "alone."
    )


def _uncounted(trained: Sequence[Forecast]) -> str:
    """A sentence with the evaluations that the numbers leave out; empty if there are none."""
    missing = dict.fromkeys(what for one in trained for what in one.uncounted)
    return f"Not counted in evaluation: {', '.join(missing)}. " if missing else ""


def _table(found: Sequence[Forecast]) -> str:
    head = ("stage", "GPUs", "GB each", "steps", "tokens", "FLOPs", "hours", "cost", "download", "store")
    rows = [
        (
            one.stage, _or(one.ranks), _or(sum(one.memory.values()) / 1e9, ".0f"), _or(one.steps, ","),
            _or(one.tokens / 1e6, ",.0f", " M"), _or(one.flops, ".1e").replace("e+", "e"),
            _or(one.seconds / 3600, ".2f"), "-" if one.dollars is None else f"${one.dollars:.2f}",
            _or(one.downloads / 1e9, ".1f", " GB"), _or(one.disk / 1e9, ".1f", " GB"),
        )
        for one in found
        if one.ranks or one.disk or one.downloads
    ]  # fmt: skip
    dollars = [one.dollars for one in found if one.dollars is not None]
    total = (
        "all", "-", "-", "-", "-", _or(sum(one.flops for one in found), ".1e").replace("e+", "e"),
        _or(sum(one.seconds for one in found) / 3600, ".2f"), f"${sum(dollars):.2f}" if dollars else "-",
        _or(sum(one.downloads for one in found) / 1e9, ".1f", " GB"),
        _or(sum(one.disk for one in found) / 1e9, ".1f", " GB"),
    )  # fmt: skip
    return table([head, *rows, total], right=range(1, len(head)))


def _memory(trained: Sequence[Forecast]) -> str:
    """GB of one GPU by part; stages with equal numbers share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    parts = [part for part in PARTS if any(one.memory.get(part) for one in trained)]
    for one in trained:
        cells = tuple(_or(one.memory.get(part, 0) / 1e9, ".1f") for part in parts)
        rows.setdefault(cells, []).append(one.stage)
    lines = [
        (stages[0] if len(stages) == 1 else f"{stages[0]} and {len(stages) - 1} more", *c) for c, stages in rows.items()
    ]
    return table([("GB of one GPU", *parts), *lines], right=range(1, len(parts) + 1))


def _or(value: float, form: str = "", unit: str = "") -> str:
    return f"{value:{form}}{unit}" if value else "-"
