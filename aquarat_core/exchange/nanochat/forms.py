"""The forms of nanochat's checkpoints: which tensors they have, and what is computed with them.

Constants such as the base of the rotary embedding and the length of short windows are in nanochat's code, not in its
files, so they are only known if the names of the tensors identify the code. They do in three forms:

- October 2025: only tables and matrices. Queries and keys are not scaled, the rotary base is 10,000, no windows.
- January 2026: two lambdas a layer. An S layer sees half of the context and one token more; otherwise as before.
- Since March 2026: lambdas, smear, backout and value embeddings. Queries and keys times 1.2, rotary base 100,000; an S
  layer sees a quarter of the context, rounded up to a multiple of 128, and one token more.

Since December 2025 the tables are padded to a multiple of 64 rows. Between January and March 2026 value embeddings came
and the constants changed several times without a trace in the files: those checkpoints are rejected.

The one token more is the current one: FlashAttention's `window_size=(n, 0)` counts the tokens before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.config import ModelConfig, validate
from aquarat_core.errors import WeightsError

SOFTCAP = 15.0
SIZES = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
"""Fields of a `model_config` that all forms have; they are integers."""
WINDOW_PATTERN = "window_pattern"
OPTIONS = ("residual_lambdas", "value_embeddings", "smear", "backout")
"""The fields of our `ModelConfig` that add tensors which nanochat has too."""

_TABLES = {"embedding.weight": "transformer.wte.weight", "head.weight": "lm_head.weight"}
_MATRICES = {
    "attention.q": "attn.c_q", "attention.k": "attn.c_k", "attention.v": "attn.c_v", "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
}  # fmt: skip
_MARKS = {
    "residual_lambdas": r"(resid|x0)_lambdas",
    "value_embeddings": r"value_embeds\.\d+\.weight|transformer\.h\.\d+\.attn\.ve_gate\.weight",
    "smear": r"smear_(lambda|gate\.weight)",
    "backout": r"backout_lambda",
}
"""For each option, the names of tensors that only models with it have."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way in which nanochat computed, and the tensors that identify it."""

    name: str
    options: frozenset[str]
    qk_scale: float
    rope_base: float
    short_window: Callable[[int], int] | None
    """Tokens that an S layer sees, including the current one, for a context length; null if it has no windows."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of its `model_config`."""
        return SIZES if self.short_window is None else (*SIZES, WINDOW_PATTERN)


def _half(context: int) -> int:
    return context // 2 + 1


def _quarter(context: int) -> int:
    return -(-context // 4 // 128) * 128 + 1


OCTOBER_2025 = Form("nanochat of October 2025", frozenset(), 1.0, 10_000.0, None)
JANUARY_2026 = Form("nanochat of January 2026", frozenset({"residual_lambdas"}), 1.0, 10_000.0, _half)
PRESENT = Form("nanochat of 2026", frozenset(OPTIONS), 1.2, 100_000.0, _quarter)
FORMS = (OCTOBER_2025, JANUARY_2026, PRESENT)


def form_of(names: Collection[str]) -> Form:
    """The form of a checkpoint whose tensors have these names. Raises `WeightsError` if it is not one of `FORMS`."""
    if absent := [name for name in _TABLES.values() if name not in names]:
        raise WeightsError(f"these are not the weights of a nanochat model: {absent[0]} is missing")
    options = frozenset(o for o, mark in _MARKS.items() if any(re.fullmatch(mark, name) for name in names))
    for form in FORMS:
        if form.options == options:
            return form
    found, missing = _examples(options), _examples(PRESENT.options - options)
    raise WeightsError(
        f"these weights have {found} but not {missing}: that is none of the forms of nanochat that are read (October "
        "2025, January 2026 before value embeddings, and since March 2026). In between, nanochat changed constants "
        "that are not in the files: this checkpoint can only be used with the code that wrote it"
    )


def _examples(options: Collection[str]) -> str:
    names = {"residual_lambdas": "resid_lambdas", "value_embeddings": "value_embeds", "smear": "smear_lambda",
             "backout": "backout_lambda"}  # fmt: skip
    return ", ".join(names[option] for option in OPTIONS if option in options)


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """nanochat's name of each of our tensors, except `taps`, which it does not have."""
    names = dict(_TABLES)
    for i in range(config.depth):
        names |= {f"blocks.{i}.{ours}.weight": f"transformer.h.{i}.{its}.weight" for ours, its in _MATRICES.items()}
        if config.has_value_embedding(i):
            names[f"blocks.{i}.attention.value_gate.weight"] = f"transformer.h.{i}.attn.ve_gate.weight"
            names[f"value_embeddings.{i}.weight"] = f"value_embeds.{i}.weight"
    if config.residual_lambdas:
        names |= {"residual_lambdas": "resid_lambdas", "embedding_lambdas": "x0_lambdas"}
    if config.smear:
        names |= {"smear_gate.weight": "smear_gate.weight", "smear_lambda": "smear_lambda"}
    if config.backout:
        names["backout_lambda"] = "backout_lambda"
    return names


def is_table(name: str) -> bool:
    """Whether our tensor of this name has a row for each id."""
    return name in _TABLES or name.startswith("value_embeddings.")


def config_of(form: Form, described: Mapping[str, Any]) -> ModelConfig:
    """Our config of a `model_config`. Raises `WeightsError` for fields that are unknown, missing or impossible."""
    if unknown := sorted(described.keys() - set(form.fields) - {WINDOW_PATTERN}):
        raise WeightsError(
            f"model_config has {unknown[0]}, which {form.name} does not have: the model may compute something else "
            "than is known here. If the field changes nothing in this model, remove it from a copy of the file"
        )
    if missing := [field for field in SIZES if field not in described]:
        raise WeightsError(f"model_config lacks {', '.join(missing)}")
    if other := [
        f"{field} is {str(json.dumps(described[field]))[:40]}" for field in SIZES if type(described[field]) is not int
    ]:
        raise WeightsError(f"model_config: {', '.join(other)}, but sizes must be integers")
    if small := [field for field in SIZES if described[field] < 1]:
        raise WeightsError(f"model_config: {', '.join(small)} must be at least 1")
    head_size, rest = divmod(described["n_embd"], described["n_head"])
    if rest:
        raise WeightsError(f"n_embd {described['n_embd']} is not a multiple of n_head {described['n_head']}")
    fields = {
        "depth": described["n_layer"],
        "head_size": head_size,
        "n_kv_head": described["n_kv_head"],
        "sequence_len": described["sequence_len"],
        "qk_scale": form.qk_scale,
        "rope_base": form.rope_base,
        "softcap": SOFTCAP,
        **dict.fromkeys(sorted(form.options), True),
        **_width(described["n_embd"], described["n_layer"]),
        **_windows(form, described),
    }
    return validate(ModelConfig, fields, "model_config")


def _width(width: int, depth: int) -> dict[str, int]:
    per_layer, rest = divmod(width, depth)
    return {"width": width} if rest or not 8 <= per_layer <= 256 else {"width_per_layer": per_layer}


def _windows(form: Form, described: Mapping[str, Any]) -> dict[str, Any]:
    # Without the field, a model was trained before windows existed.
    pattern = described.get(WINDOW_PATTERN, "L")
    if not isinstance(pattern, str) or not re.fullmatch("[SLsl]{1,256}", pattern):
        raise WeightsError(f"model_config: {WINDOW_PATTERN} must consist of S and L, not {str(pattern)[:40]!r}")
    pattern = pattern.upper()
    if "S" not in pattern:
        return {}
    if form.short_window is None:
        raise WeightsError(
            f"model_config has {WINDOW_PATTERN} {pattern}, but the weights are those of {form.name}, which has no "
            "windows: the two files do not belong together"
        )
    return {"window_pattern": pattern, "short_window": form.short_window(described["sequence_len"])}
