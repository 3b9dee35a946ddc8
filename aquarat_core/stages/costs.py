"""Lower bounds on a stage's computation, downloads and output, from its config alone. Imports no torch.

Costs that are unknown before a stage runs are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.config import ConfigError, EvalConfig, PretrainConfig, PretrainTextConfig, RLConfig
from aquarat_core.config.accounting import QUESTION_TOKENS, flops_per_token, matrix_parameters, parameters
from aquarat_core.config.evaluation import Asked, Split
from aquarat_core.config.fields import MAX_STEPS, covers
from aquarat_core.config.protocols import GENERATING
from aquarat_core.config.scaling import horizon_of
from aquarat_core.tasks.registry import DATASETS, dataset_of

KNOWN_REPO = PretrainTextConfig().repo
SHARD_BYTES = 90_000_000
"""Approximate download size of one shard of `KNOWN_REPO`. The other `SHARD_` values are approximate too."""
SHARD_TEXT_BYTES = 125_000_000
"""Size of a shard's 250 million characters in our Parquet files: LZ4 roughly halves English text."""
SHARD_DOCUMENTS = 53_000
SHARD_TOKENS = 50_000_000
FLOAT = 4
ROTATIONS = 5
"""Options of a question, as most have at most."""

Sections = Mapping[str, Any]
"""The config of every stage of the chain by name; None for a stage without one."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a stage as lower bounds, except `sampled` and `read`, which are upper bounds of what they count."""

    flops: float = 0.0
    """Forward and backward FLOPs of all training steps; only counted for base, mid and SFT."""
    downloads: int = 0
    """Bytes downloaded from `KNOWN_REPO` on the Hub."""
    published: int = 0
    """Bytes of the artifact."""
    state: int = 0
    """Bytes of unfinished training in the store after `checkpoint.keep_last` saves."""
    sampled: int = 0
    """Maximum number of sampled tokens, of all questions whose number is known."""
    read: int = 0
    """Maximum number of tokens that a model only reads, in forward passes besides training's and sampling's. A question
    counts as `QUESTION_TOKENS`."""
    uncounted: tuple[str, ...] = ()
    """What an evaluation computes that is in none of these numbers."""


def cost_of(name: str, sections: Sections) -> Cost:
    """The cost of stage `name`. Raises `ConfigError` if its training budget amounts to more than `MAX_STEPS` steps."""
    if name in ("pretrain_text", "pretrain_tokens"):
        return _text(name, sections["pretrain_text"])
    if name.endswith("_checkpoint"):
        return _checkpoint(name, sections)
    if name.endswith("_eval_report"):
        return _report(sections[name], name.removesuffix("_eval_report"), sections)
    return Cost()


def _report(config: EvalConfig, phase: str, sections: Sections) -> Cost:
    sampled, read, uncounted = 0, 0, list[str]()
    for asked in config.asked(phase):
        questions = min(filter(None, (asked.limit, _rows_kept(asked.task, asked.split, sections))), default=None)
        if questions is None:
            uncounted.append(asked.name)
            continue
        if asked == config.forced:  # It follows answers that the main evaluation has generated.
            read += questions * (QUESTION_TOKENS + asked.max_new_tokens)
            continue
        read += questions * _read(asked)
        if asked.protocol in GENERATING:
            answers = ROTATIONS if asked.protocol == "rotated" else asked.samples
            sampled += questions * answers * asked.max_new_tokens
    for what, part in (("CORE", config.core), ("the analysis of attention and layers", config.interpret)):
        if part is not None and covers(part.of, phase):
            uncounted.append(what)
    if phase in ("base", "mid"):
        read += config.bpb_tokens
    return Cost(sampled=sampled, read=read, uncounted=tuple(uncounted))


def _read(asked: Asked) -> int:
    """The most tokens that an evaluation reads for a question, before it answers or to compare letters or options."""
    match asked.protocol:
        case "continuations" | "rotated":
            return ROTATIONS * QUESTION_TOKENS
        case "cued":
            return 2 * QUESTION_TOKENS + asked.max_new_tokens
        case _:
            return QUESTION_TOKENS


def _rows_kept(task: str, split: Split, sections: Sections) -> int | None:
    """Maximum number of rows that a task's data set keeps of a split; None if it keeps all."""
    if (asset := dataset_of(task)) in DATASETS:
        return getattr(sections[asset], f"n_{split}")
    chats = sections[asset]
    for source in chats.sources:
        if source.name == task:
            return None if split == "holdout" else source.kept(split)
    return getattr(chats.tasks.get(task), f"n_{split}", None)


def pretraining_steps(config: PretrainConfig, vocab_size: int) -> int:
    """Steps of the base stage. Raises `ConfigError` if its budget amounts to more than `MAX_STEPS`, surely a
    mistake."""
    try:
        steps: float = horizon_of(config, vocab_size)
    except OverflowError:
        steps = float("inf")
    if steps > MAX_STEPS:
        field = "target_flops" if config.target_flops is not None else "tokens_per_parameter"
        raise ConfigError(
            f"base_checkpoint.{field} {getattr(config, field):g} amounts to {steps:.3g} steps, but the limit is "
            f"{MAX_STEPS:,}: lower it, or raise base_checkpoint.batch_tokens"
        )
    return int(steps)


def _text(name: str, config: PretrainTextConfig) -> Cost:
    if config.source != "hub" or config.repo != KNOWN_REPO:
        return Cost()
    shards = len(config.shards) + 1
    kept = shards * min(1.0, (config.max_documents_per_shard or SHARD_DOCUMENTS) / SHARD_DOCUMENTS)
    if name == "pretrain_tokens":
        return Cost(published=int(2 * kept * SHARD_TOKENS))
    return Cost(downloads=shards * SHARD_BYTES, published=int(kept * SHARD_TEXT_BYTES))


def _checkpoint(name: str, sections: Sections) -> Cost:
    config, model, vocab_size = sections[name], sections["base_checkpoint"].model, sections["tokenizer"].vocab_size
    weights, matrices = parameters(model, vocab_size), matrix_parameters(model)
    # Weights and the optimizer's moments: one for matrices, two for the rest.
    state = FLOAT * (weights + matrices + 2 * (weights - matrices)) * config.checkpoint.keep_last
    if name == "rl_checkpoint":
        samples = config.steps * config.prompts_per_step * config.group_size * (1 + config.dynamic_sampling_rounds)
        sampled = (samples + _held_out(config, sections)) * config.max_new_tokens
        read = _read_in_rl(config) + _held_out(config, sections) * QUESTION_TOKENS
        return Cost(published=FLOAT * weights, state=state, sampled=sampled, read=read)
    steps = pretraining_steps(config, vocab_size) if name == "base_checkpoint" else config.steps
    flops = float(steps) * config.batch_tokens * flops_per_token(model, vocab_size)
    return Cost(flops=flops, published=FLOAT * weights, state=state)


def _measurements(config: RLConfig) -> int:
    """How often RL measures held-out questions: before the first step, every `eval_every` steps, and at the end."""
    return 1 + -(-config.steps // config.eval_every)


def _held_out(config: RLConfig, sections: Sections) -> int:
    """The most held-out questions that RL answers, over all measurements."""
    questions = 0
    for task in config.tasks:
        split: Split = config.validation_split if dataset_of(task.name) in DATASETS else "validation"
        kept = _rows_kept(task.name, split, sections)
        questions += config.eval_questions if kept is None else min(kept, config.eval_questions)
    return _measurements(config) * questions


def _read_in_rl(config: RLConfig) -> int:
    """The most tokens that RL reads without a gradient: questions before they are answered, the old policy's, the
    reference's and the teacher's log-probabilities, rewards by probability, and the probes."""
    of_step = config.prompts_per_step * config.group_size
    updates = config.objective.updates_per_batch
    # Without a KL term the reference reads one micro-batch of each rank in a step.
    shown = of_step if config.objective.kl != "none" else config.micro_batch_rows * config.launch.nproc
    rows = config.steps * (min(of_step, shown) + of_step * ((updates > 1) + updates * config.distills))
    if config.reward.kind != "answer":
        paid = config.reward.steps_of_kind(config.steps)
        rows += paid * of_step * (1 + config.dynamic_sampling_rounds)
    # The reference is probed once, the policy at each measurement.
    rows += (1 + _measurements(config)) * config.probe_questions * len(config.tasks)
    questions = config.steps * config.prompts_per_step * (1 + config.dynamic_sampling_rounds)
    return rows * (QUESTION_TOKENS + config.max_new_tokens) + questions * QUESTION_TOKENS
