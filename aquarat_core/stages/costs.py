"""Lower bounds on a stage's computation, downloads and output, from its config alone. Imports no torch.

Costs that are unknown before a stage runs are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.config import ConfigError, PretrainConfig, PretrainTextConfig
from aquarat_core.config.accounting import flops_per_token, matrix_parameters, parameters
from aquarat_core.config.evaluation import Asked
from aquarat_core.config.fields import MAX_STEPS
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
    """The cost of a stage as lower bounds, except `sampled`, which is an upper bound."""

    flops: float = 0.0
    """Forward and backward FLOPs of all training steps; only counted for base, mid and SFT."""
    downloads: int = 0
    """Bytes downloaded from `KNOWN_REPO` on the Hub."""
    published: int = 0
    """Bytes of the artifact."""
    state: int = 0
    """Bytes of unfinished training in the store after `checkpoint.keep_last` saves."""
    sampled: int = 0
    """Maximum number of sampled tokens."""


def cost_of(name: str, sections: Sections) -> Cost:
    """The cost of stage `name`. Raises `ConfigError` if its training budget amounts to more than `MAX_STEPS` steps."""
    if name in ("pretrain_text", "pretrain_tokens"):
        return _text(name, sections["pretrain_text"])
    if name.endswith("_checkpoint"):
        return _checkpoint(name, sections)
    if name.endswith("_eval_report"):
        asked = sections[name].asked(name.removesuffix("_eval_report"))
        return Cost(sampled=sum(_tokens(one, sections) for one in asked if one.protocol in GENERATING))
    return Cost()


def _tokens(asked: Asked, sections: Sections) -> int:
    """The most tokens that an evaluation generates; 0 where the number of its questions is not known."""
    questions = min(filter(None, (asked.limit, _rows_kept(asked.task, asked.split, sections))), default=0)
    answers = ROTATIONS if asked.protocol == "rotated" else asked.samples
    return questions * answers * asked.max_new_tokens


def _rows_kept(task: str, split: str, sections: Sections) -> int | None:
    """Maximum number of rows that a task's data set keeps of a split; None if it keeps all."""
    if (asset := dataset_of(task)) in DATASETS:
        return getattr(sections[asset], f"n_{split}")
    chats = sections[asset]
    found = chats.tasks.get(task) or next((s for s in chats.sources if s.name == task), None)
    return getattr(found, f"n_{split}", None)


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
        return Cost(published=FLOAT * weights, state=state, sampled=samples * config.max_new_tokens)
    steps = pretraining_steps(config, vocab_size) if name == "base_checkpoint" else config.steps
    flops = float(steps) * config.batch_tokens * flops_per_token(model, vocab_size)
    return Cost(flops=flops, published=FLOAT * weights, state=state)
