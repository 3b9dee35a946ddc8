"""The dial of a profile: from `depth`, the size of the model, its batch, rates, data and micro-batches follow.

A profile's own values win over derived ones, and others are derived from them: with a batch that is set by hand, the
learning rates follow that batch. Each derived value comes with its rule in words, which `aquarat config show` prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import ValidationError

from aquarat_core.config import scaling
from aquarat_core.config.accounting import flops_per_token, rl_parts, scaling_parameters, training_bytes
from aquarat_core.config.fields import ConfigError, merge
from aquarat_core.config.model import ModelConfig, TokenizerConfig
from aquarat_core.config.rl import RLConfig
from aquarat_core.config.training import LaunchConfig, PretrainConfig, TrainConfig

REFERENCE_DEPTH = 12
"""Depth of the model for which the rates are specified."""
WIDTH_PER_LAYER = 64
GPU_BYTES = 80_000_000_000
"""Memory of the GPUs for which micro-batches are chosen: that of an A100 or H100."""
USABLE = 0.8
"""Share of it that the estimate may use; the rest is for the CUDA context, kernels' workspaces and fragmentation."""
CPU_ROWS = 4
"""Rows of a micro-batch on CPUs, which gain nothing from more."""
SHARD_TOKENS = 50_000_000
"""Tokens of one shard of the default text."""
SPARE_TEXT = 1.1
"""Text that is fetched, as a multiple of the tokens trained on."""

Derived = tuple[str, dict[str, Any]]
"""The rule in words, and the fields that it gives, nested as in a profile."""


def derived(
    depth: int, given: Mapping[str, Any], own: Mapping[str, Any], sections: Mapping[str, type[TrainConfig]]
) -> list[Derived]:
    """The values that follow from `depth`, each with its rule.

    `given` are the fields of the whole profile as nested mappings, `own` those that win over derived ones, `sections`
    those of the stages that train on tokens. Values that cannot be read yield nothing here: validating the profile
    reports them. Raises `ConfigError` for a model of which not even one row fits into a GPU.
    """
    try:
        return _Dial(depth, given, own, sections).turned()
    except ValidationError:
        return []


class _Dial:
    """Derives one value after the other, because later ones depend on earlier ones."""

    def __init__(
        self, depth: int, given: Mapping[str, Any], own: Mapping[str, Any], sections: Mapping[str, type[TrainConfig]]
    ) -> None:
        self.depth, self.given, self.own, self.sections = depth, given, own, sections
        self.found: list[Derived] = []

    def turned(self) -> list[Derived]:
        """All derived values."""
        depth = self.depth
        # Validated alone, because the width that it divides is not known yet.
        given = _get(self.given, "base_checkpoint.model.head_size") or ModelConfig().head_size
        head = ModelConfig.model_validate({"head_size": given, "depth": 1, "width": given}).head_size
        self._set("base_checkpoint.model.depth", "the depth", lambda: depth)
        self._set(
            "base_checkpoint.model.width", f"{WIDTH_PER_LAYER} x depth, up to whole heads",
            lambda: math.ceil(WIDTH_PER_LAYER * depth / head) * head,
        )  # fmt: skip
        tokens = self._pretraining(head)
        self._set(
            "pretrain_text.first_shards", f"{SPARE_TEXT:g} x tokens / {SHARD_TOKENS / 1e6:.0f} million",
            lambda: math.ceil(SPARE_TEXT * tokens / SHARD_TOKENS),
        )  # fmt: skip
        for section in self.sections:
            rule = self._memory_rule(section, "rows")
            self._set(f"{section}.micro_batch_rows", rule, lambda name=section: self._rows(name))
        rule = self._memory_rule("rl_checkpoint", "completions")
        for rows in ("micro_batch_rows", "rollout_rows"):
            self._set(f"rl_checkpoint.{rows}", rule, lambda name=rows: self._rl_rows(name))
        return self.found

    def _pretraining(self, head: int) -> int:
        """Batch, rates, decay and horizon of the base stage; returns the number of tokens that it trains on."""
        base, V = self._base(), self._vocab_size()
        wide = math.ceil(WIDTH_PER_LAYER * REFERENCE_DEPTH / head) * head
        reference = base.model.model_copy(update={"depth": REFERENCE_DEPTH, "width": wide})
        at_reference = scaling.training_tokens(scaling_parameters(reference, V))
        counted = _get(self.own, "base_checkpoint.steps") is not None
        if base.tokens_per_parameter is None and base.target_flops is None and not counted:
            ratio = scaling.TOKENS_PER_PARAMETER
            self._set("base_checkpoint.tokens_per_parameter", "the ratio of the reference", lambda: ratio)
        tokens = scaling.training_tokens(
            scaling_parameters(base.model, V), base.tokens_per_parameter or scaling.TOKENS_PER_PARAMETER
        )
        if base.target_flops is not None:
            tokens = round(base.target_flops / flops_per_token(base.model, V))
        row = base.model.sequence_len
        self._set(
            "base_checkpoint.batch_tokens", "524,288 x (tokens / d12's tokens)^0.383, to a power of two",
            lambda: math.ceil(scaling.batch_tokens(tokens, at_reference) / row) * row,
        )  # fmt: skip
        batch = self._base().batch_tokens
        if base.tokens_per_parameter is None and base.target_flops is None and counted:
            tokens = base.steps * batch
        self._set("base_checkpoint.optim.lr_scale", "(batch / 524,288)^0.5", lambda: _rounded(scaling.lr_scale(batch)))
        self._set(
            "base_checkpoint.optim.weight_decay", "0.28 x (batch / 524,288)^0.5 x d12's tokens / tokens",
            lambda: _rounded(scaling.weight_decay(batch, tokens, at_reference)),
        )  # fmt: skip
        return tokens

    def _rows(self, section: str) -> int:
        """Rows of a micro-batch: as many as fit into the GPU and divide the largest share of a rank."""
        kind = self.sections[section]
        config, model = kind.model_validate(self._now(section)), self._base().model
        per_rank = math.ceil(config.batch_tokens // model.sequence_len / config.launch.nproc)

        def needs(rows: int) -> int:
            return training_bytes(
                model, self._vocab_size(), rows, ranks=config.launch.nproc,
                keeps_logits=config.launch.compiles_on("cuda"),
            )  # fmt: skip

        return _largest(per_rank, needs, config.launch, f"{section} of depth {self.depth}")

    def _rl_rows(self, field: str) -> int:
        """Completions that are sampled or updated on at a time."""
        rl, model, V = RLConfig.model_validate(self._now("rl_checkpoint")), self._base().model, self._vocab_size()
        one = {"micro_batch_rows": 1, "rollout_rows": 1}
        fixed = sum(rl_parts(model, V, rl, **one).values())

        def needs(rows: int) -> int:
            # Twice, because sampling and the update share what is left.
            return fixed + 2 * (sum(rl_parts(model, V, rl, **{**one, field: rows}).values()) - fixed)

        most: int = RLConfig.model_fields[field].default
        return _largest(most, needs, rl.launch, f"rl_checkpoint of depth {self.depth}", on_cpu=most)

    def _memory_rule(self, section: str, rows: str) -> str:
        if _get(self.given, f"{section}.launch.device") == "cpu":
            return f"a few {rows}: CPUs gain nothing from more"
        return f"as many {rows} as fit into {USABLE:.0%} of {GPU_BYTES / 1e9:.0f} GB"

    def _set(self, field: str, rule: str, value: Callable[[], Any]) -> None:
        """Derives a field, unless it is set by hand."""
        if _get(self.own, field) is None:
            nested: Any = value()
            for name in reversed(field.split(".")):
                nested = {name: nested}
            self.found.append((rule, nested))

    def _now(self, section: str) -> dict[str, Any]:
        """A section's fields with what is derived so far."""
        layers = [self.given, *(values for _, values in self.found), self.own]
        return merge(*({section: layer[section]} for layer in layers if section in layer)).get(section, {})

    def _base(self) -> PretrainConfig:
        return PretrainConfig.model_validate(self._now("base_checkpoint"))

    def _vocab_size(self) -> int:
        return TokenizerConfig.model_validate(self._now("tokenizer")).vocab_size


def _largest(limit: int, needs: Callable[[int], float], launch: LaunchConfig, what: str, on_cpu: int = CPU_ROWS) -> int:
    """The largest power of two or divisor of `limit` that fits. Raises `ConfigError` if not even one row does."""
    candidates = [rows for rows in range(min(limit, 1024), 0, -1) if limit % rows == 0] or [1]
    if launch.device == "cpu":
        return next(rows for rows in candidates if rows <= on_cpu)
    fitting = next((rows for rows in candidates if needs(rows) <= USABLE * GPU_BYTES), None)
    if fitting is None:
        raise ConfigError(
            f"{what} needs {needs(1) / 1e9:.0f} GB on each rank even with one row at a time, more than {USABLE:.0%} of "
            f"{GPU_BYTES / 1e9:.0f} GB: take a smaller depth, a shorter sequence_len or more ranks (launch.nproc), or "
            "set micro_batch_rows by hand for larger GPUs"
        )
    return fitting


def _rounded(x: float) -> float:
    """To four digits, as a person would write it."""
    return float(f"{x:.4g}")


def _get(fields: Mapping[str, Any], name: str) -> Any:
    found: Any = fields
    for part in name.split("."):
        found = cast("dict[str, Any]", found).get(part) if isinstance(found, dict) else None
    return found
