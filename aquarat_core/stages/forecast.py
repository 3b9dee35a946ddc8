"""What each stage of a profile would take on GPUs: memory by part, steps, tokens, FLOPs, hours, disk, computed.

A dry run: the model and the optimizer's shares are built on tensors without values, everything else follows from the
config. Nothing here was measured on the profile itself; every assumption is a constant below or an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aquarat_core.config import ConfigError, LaunchConfig, ModelConfig, Profile, RLConfig, TrainConfig, override
from aquarat_core.config.accounting import (
    QUESTION_TOKENS,
    flops_per_token,
    kv_bytes_per_token,
    parameters,
    rl_parts,
    scaling_parameters,
    training_parts,
)
from aquarat_core.config.dial import USABLE
from aquarat_core.runtime.peaks import UTILIZATION, memory_of, peak_of
from aquarat_core.stages.costs import Cost, cost_of, pretraining_steps
from aquarat_core.stages.registry import STAGES, used_stages

SAMPLED_PER_SECOND = 98_000.0
"""Tokens that one H100 samples in a second with d12 in 256 rows, measured. Other models and GPUs are assumed to take
time in proportion to their matrices and the GPU's peak."""
D12_MATRICES = 110_100_912
"""Weights of d12's matrix products, which `SAMPLED_PER_SECOND` was measured with."""
H100_PEAK = 989e12


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs that a forecast is for."""

    kind: str = "H100"
    """A name that `peak_of` knows."""
    price: float | None = None
    """Dollars of one GPU for an hour."""
    utilization: float = UTILIZATION
    """Share of the bfloat16 peak that training reaches."""

    @property
    def peak(self) -> float:
        """FLOP/s of one GPU in bfloat16. Raises `ConfigError` for an unknown kind."""
        if (peak := peak_of(self.kind)) is None:
            raise ConfigError(f"the peak of a GPU named {self.kind!r} is not known: name it like H100, A100 or L40S")
        return peak


@dataclass(frozen=True, slots=True)
class Forecast:
    """A stage's computed needs. In RL and evaluations no answer ends early, and every question is as long as
    `QUESTION_TOKENS`."""

    stage: str
    ranks: int = 0
    """GPUs; 0 for a stage that needs none."""
    memory: Mapping[str, int] = field(default_factory=dict[str, int])
    """Bytes on the rank that needs most, by part."""
    steps: int = 0
    tokens: float = 0.0
    """Tokens trained on, or sampled."""
    flops: float = 0.0
    """Of training, and of the passes in which a model only reads."""
    seconds: float = 0.0
    """Of computing on GPUs; start-up, validation and downloads come on top."""
    dollars: float | None = None
    disk: int = 0
    """Bytes of the artifact, and of unfinished training in the store."""
    downloads: int = 0
    """Bytes of pretraining text from the Hub; other data sets are not counted."""
    uncounted: tuple[str, ...] = ()
    """What of an evaluation is in none of these numbers."""
    problem: str | None = None
    """Why the stage cannot run on these GPUs, and the nearest way out."""


def forecast(profile: Profile, gpus: Gpus, *, ranks: int | None = None, only: Iterable[str] = ()) -> list[Forecast]:
    """The needs of the chain's stages, or of `only` some, in their order.

    `ranks` replaces the profile's `launch.nproc`. Raises `ConfigError` for unknown GPUs.
    """
    if ranks is not None:
        profile = _on_ranks(profile, ranks)
    sections = {name: STAGES[name].config(profile) for name in STAGES}
    wanted = set(only)
    return [_of(name, sections, gpus) for name in used_stages(profile) if not wanted or name in wanted]


def seconds_of(name: str, sections: Mapping[str, Any], gpus: Gpus, ranks: int) -> float:
    """Seconds of computing of one stage on `ranks` GPUs, where no answer ends early. Forward passes are assumed to
    reach the utilization of training."""
    model, V = sections["base_checkpoint"].model, sections["tokenizer"].vocab_size
    _, _, flops, sampled = _work(name, sections, cost_of(name, sections))
    rate = SAMPLED_PER_SECOND * D12_MATRICES / scaling_parameters(model, V) * gpus.peak / H100_PEAK
    return flops / (gpus.utilization * gpus.peak * ranks) + sampled / (rate * ranks)


def _on_ranks(profile: Profile, ranks: int) -> Profile:
    """The profile with `ranks` processes in each stage that is launched on GPUs. Raises `ConfigError`."""
    launched = [name for name, section in profile if getattr(section, "launch", None) and _on_gpus(section.launch)]
    return override(profile, {name: {"launch": {"nproc": ranks}} for name in launched})


def _on_gpus(launch: LaunchConfig) -> bool:
    return launch.device == "cuda"


def _of(name: str, sections: Mapping[str, Any], gpus: Gpus) -> Forecast:
    cost, section = cost_of(name, sections), sections[name]
    launch: LaunchConfig | None = getattr(section, "launch", None)
    disk = cost.published + cost.state
    if launch is None or not _on_gpus(launch):
        return Forecast(name, disk=disk, downloads=cost.downloads)
    model, V = sections["base_checkpoint"].model, sections["tokenizer"].vocab_size
    steps, tokens, flops, sampled = _work(name, sections, cost)
    seconds = seconds_of(name, sections, gpus, launch.nproc)
    memory = _memory(section, model, V)
    return Forecast(
        name, launch.nproc, memory, steps, tokens or sampled, flops, seconds,
        None if gpus.price is None else seconds / 3600 * launch.nproc * gpus.price, disk, cost.downloads,
        cost.uncounted, _problem(name, section, memory, model, V, gpus),
    )  # fmt: skip


def _work(name: str, sections: Mapping[str, Any], cost: Cost) -> tuple[int, float, float, float]:
    """Steps, tokens trained on, FLOPs apart from sampling, and sampled tokens."""
    section, model, V = sections[name], sections["base_checkpoint"].model, sections["tokenizer"].vocab_size
    if isinstance(section, TrainConfig):
        steps = pretraining_steps(sections[name], V) if name == "base_checkpoint" else section.steps
        return steps, float(steps) * section.batch_tokens, cost.flops, 0.0
    # Of a training token's FLOPs, a third are of its forward pass.
    reading = cost.read * flops_per_token(model, V) / 3
    if isinstance(section, RLConfig):
        # Replaced groups are sampled but not trained on.
        samples = float(section.steps) * section.prompts_per_step * section.group_size
        trained = samples * (QUESTION_TOKENS + section.max_new_tokens) * section.objective.updates_per_batch
        return section.steps, trained, trained * flops_per_token(model, V) + reading, float(cost.sampled)
    return 0, 0.0, reading, float(cost.sampled)


def _memory(section: Any, model: ModelConfig, V: int, rows: int | None = None) -> dict[str, int]:
    """Bytes of one rank by part, with micro-batches of `rows` rows instead of the section's."""
    from aquarat_core.training.dry_run import state_bytes

    launch: LaunchConfig = section.launch
    if isinstance(section, TrainConfig):
        parts = training_parts(
            model, V, rows or section.micro_batch_rows, ranks=launch.nproc, keeps_logits=launch.compiles_on("cuda")
        )
        return parts | state_bytes(model, V, launch.nproc)
    if isinstance(section, RLConfig):
        parts = rl_parts(model, V, section, micro_batch_rows=rows, rollout_rows=rows)
        return parts | state_bytes(model, V, launch.nproc)
    weights, products = parameters(model, V), scaling_parameters(model, V)
    cached = (rows or section.batch_rows) * (QUESTION_TOKENS + section.max_new_tokens)
    return {
        "weights": 4 * weights,
        "sampler": 4 * (weights - products) + 2 * products,
        "rollout_cache": kv_bytes_per_token(model) * cached,
    }


def _problem(name: str, section: Any, memory: Mapping[str, int], model: ModelConfig, V: int, gpus: Gpus) -> str | None:
    """Why the stage does not fit into such a GPU, with the nearest way out; None if it fits or nobody knows."""
    there, needed = memory_of(gpus.kind), sum(memory.values())
    if there is None or needed <= USABLE * there:
        return None
    short = (
        f"{name} needs about {needed / 1e9:.0f} GB on each of {section.launch.nproc} GPUs, more than {USABLE:.0%} of "
        f"the {there / 1e9:.0f} GB of {gpus.kind}"
    )
    fields, rows = _rows(section)
    for fewer in (n for n in range(rows - 1, 0, -1) if rows % n == 0):
        if (then := sum(_memory(section, model, V, fewer).values())) <= USABLE * there:
            return f"{short}: set {fields} to {fewer}, which needs {then / 1e9:.0f} GB"
    return f"{short}, even with one row at a time: take more GPUs, GPUs with more memory, or a smaller depth"


def _rows(section: Any) -> tuple[str, int]:
    """The fields to lower where memory is short, as a text, and the value that they have."""
    if isinstance(section, RLConfig):
        return "rl_checkpoint.micro_batch_rows and rollout_rows", section.micro_batch_rows
    if isinstance(section, TrainConfig):
        return "its micro_batch_rows", section.micro_batch_rows
    return "eval_report.batch_rows", section.batch_rows
