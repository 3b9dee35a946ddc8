"""`config.json` in transformers' form, read back: every entry is understood, known to have no effect, or refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from aquarat_core.config import ModelConfig, validate
from aquarat_core.errors import WeightsError
from aquarat_core.exchange.huggingface.description import AQUARAT, NANOCHAT
from aquarat_core.exchange.json_files import json_object

MAX_WIDTH = 65_536
MIN_CONSTANT, MAX_CONSTANT = 1e-3, 1e9
"""Bounds of the scale, the cap and the rotary base, with which float32 neither overflows nor vanishes."""
MAX_EPS = 1e-5
"""Largest `rms_norm_eps` that is read as ours: normalized values have a mean square of 1."""
FORMS = {NANOCHAT: "transformers NanoChat", AQUARAT: "aquarat for transformers"}
_NO_EFFECT = frozenset((
    "architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "use_cache", "initializer_range",
    "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id",
    "decoder_start_token_id", "_name_or_path", "name_or_path", "return_dict", "output_hidden_states",
    "output_attentions", "id2label", "label2id", "num_labels", "problem_type", "tokenizer_class",
    "chunk_size_feed_forward", "task_specific_params", "finetuning_task", "_commit_hash", "_attn_implementation",
    "attn_implementation", "temperature", "top_k", "top_p", "do_sample", "num_beams", "max_length",
    "max_new_tokens", "min_length", "repetition_penalty",
))  # fmt: skip
"""Entries that do not change what the model computes when it runs."""
_MISSING = object()
MAX_SHOWN = 40


def parse_config(path: Path) -> tuple[ModelConfig, int, str]:
    """The model's config, its number of token ids, and the name of the form.

    Raises `WeightsError` naming the entry that is missing, malformed or not understood.
    """
    entries = _Entries(path)
    kind = entries.take("model_type")
    if kind not in tuple(FORMS):
        understood = " and ".join(f"{name} ({form})" for name, form in FORMS.items())
        raise WeightsError(f"{path}: the model_type is {kind!r}; understood are {understood}")
    fields = _nanochat(entries) if kind == NANOCHAT else _aquarat(entries)
    vocab_size = fields.pop("vocab_size")
    entries.refuse_rest()
    return validate(ModelConfig, fields, str(path)), vocab_size, FORMS[kind]


def _shown(value: Any) -> str:
    """The value for a sentence."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


class _Entries:
    """The entries of a config; those that were taken are understood. A null counts as missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._all = json_object(path)
        self._rest = {name for name, value in self._all.items() if value is not None} - _NO_EFFECT

    def take(self, name: str, default: Any = None) -> Any:
        self._rest.discard(name)
        value = self._all.get(name)
        return default if value is None else value

    def is_null(self, name: str) -> bool:
        return name in self._all and self._all[name] is None

    def integer(self, name: str, default: Any = _MISSING, least: int = 1) -> int:
        value = self.take(name, default)
        if value is _MISSING:
            raise WeightsError(f"{self.path} lacks {name}")
        if type(value) is not int or value < least:
            raise WeightsError(f"{self.path}: {name} is {_shown(value)}, not an integer of at least {least}")
        return value

    def number(self, name: str, default: Any = _MISSING) -> float:
        value = self.take(name, default)
        if value is _MISSING:
            raise WeightsError(f"{self.path} lacks {name}")
        return self.positive(name, value)

    def constant(self, name: str, default: Any = _MISSING) -> float:
        """A number within the bounds of constants."""
        return self.bounded(name, self.number(name, default))

    def positive(self, name: str, value: Any) -> float:
        """The value as a float, which an integer of JSON may be too large for."""
        if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
            raise WeightsError(f"{self.path}: {name} is {_shown(value)}, not a positive number that a float can hold")
        return float(value)

    def bounded(self, name: str, value: float) -> float:
        if not MIN_CONSTANT <= value <= MAX_CONSTANT:
            raise WeightsError(
                f"{self.path}: {name} is {value}, but only values from {MIN_CONSTANT:g} to {MAX_CONSTANT:g} are read"
            )
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name, _MISSING)
        if type(value) is not bool:
            raise WeightsError(f"{self.path}: {name} must be true or false")
        return value

    def fixed(self, name: str, expected: object, default: Any = None) -> None:
        """Our model has one value of this entry. Without a default, a missing entry is that value."""
        value = self.take(name, expected if default is None else default)
        if value != expected:
            raise WeightsError(
                f"{self.path}: {name} is {json.dumps(value)}, but only {json.dumps(expected)} is understood"
            )

    def refuse_rest(self) -> None:
        if self._rest:
            raise WeightsError(
                f"{self.path} has entries that are not understood and could change what the model computes: "
                f"{', '.join(sorted(self._rest))}. Delete them there if they have no effect on it"
            )


def _nanochat(entries: _Entries) -> dict[str, Any]:
    """Fields of our config, and `vocab_size`. What is missing has the default of transformers' class."""
    if entries.take("auto_map") is not None:
        raise WeightsError(
            f"{entries.path}: auto_map names code in the folder, which may compute anything and is not run: only "
            "models of transformers' own NanoChat class are read"
        )
    if entries.is_null("final_logit_softcapping"):
        raise WeightsError(f"{entries.path}: final_logit_softcapping is null, but logits here are always capped")
    width, heads = entries.integer("hidden_size", 768), entries.integer("num_attention_heads", 6)
    entries.fixed("hidden_act", "relu2")
    entries.fixed("attention_bias", False)
    entries.fixed("head_dim", width // heads)
    return _common(entries, width, heads, nanochat=True) | {"qk_scale": 1.0, "head_size": width // heads}


def _common(entries: _Entries, width: int, heads: int, nanochat: bool) -> dict[str, Any]:
    def default(value: object) -> object:
        return value if nanochat else _MISSING

    if width > MAX_WIDTH:
        raise WeightsError(
            f"{entries.path}: hidden_size is {_shown(width)}, but only models up to {MAX_WIDTH:,} are read"
        )
    if width % heads:
        raise WeightsError(f"{entries.path}: hidden_size {width} is not a multiple of num_attention_heads {heads}")
    entries.fixed("intermediate_size", 4 * width, default=8192 if nanochat else None)
    entries.fixed("tie_word_embeddings", False)
    entries.fixed("is_causal", True)
    entries.fixed("is_encoder_decoder", False)
    eps = entries.number("rms_norm_eps", default(1e-6))
    if eps > MAX_EPS:
        raise WeightsError(f"{entries.path}: rms_norm_eps is {eps}, but only values up to {MAX_EPS} are understood")
    return {
        "vocab_size": entries.integer("vocab_size", default(50304)),
        "depth": entries.integer("num_hidden_layers", default(12)),
        "width": width,
        "n_kv_head": entries.integer("num_key_value_heads", heads),
        "sequence_len": entries.integer("max_position_embeddings", default(2048)),
        "softcap": entries.constant("final_logit_softcapping", default(15.0)),
        "rope_base": _rope_base(entries),
    }


def _rope_base(entries: _Entries) -> float:
    """The base of the rotary wavelengths. In transformers a `rope_scaling` comes before `rope_parameters`."""
    older, newer = entries.take("rope_scaling"), entries.take("rope_parameters")
    name = "rope_scaling" if older else "rope_parameters"
    base = entries.number("rope_theta", 10_000.0)
    given: object = older or newer or {}
    if not isinstance(given, Mapping):
        raise WeightsError(f"{entries.path}: {name} is not an object")
    rope = dict(cast("Mapping[str, Any]", given))
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    if kind != "default":
        raise WeightsError(f"{entries.path}: {name} is of type {kind!r}, but only 'default' is understood")
    base = entries.bounded("rope_theta", entries.positive("rope_theta", rope.pop("rope_theta", base)))
    if rope.pop("partial_rotary_factor", 1) != 1 or rope:
        unknown = ", ".join(sorted(rope)) or "partial_rotary_factor"
        raise WeightsError(f"{entries.path}: {unknown} of {name} is not understood")
    return base


def _aquarat(entries: _Entries) -> dict[str, Any]:
    """Fields of our config, and `vocab_size`, from a release of ours. Its code is ours too, and is not looked at."""
    entries.take("auto_map")
    width, heads = entries.integer("hidden_size"), entries.integer("num_attention_heads")
    size = entries.integer("head_dim")
    if size * heads != width:
        raise WeightsError(f"{entries.path}: head_dim {size} x num_attention_heads {heads} is not hidden_size {width}")
    fields = _common(entries, width, heads, nanochat=False)
    options = {name: entries.flag(name) for name in ("value_embeddings", "residual_lambdas", "smear", "backout")}
    taps = entries.integer("embedding_taps", least=0)
    windows = _windows(entries, fields["depth"], bool(taps or options["smear"]))
    own = {"head_size": size, "embedding_taps": taps, "qk_scale": entries.constant("qk_scale")}
    return fields | options | windows | own


def _windows(entries: _Entries, depth: int, looks_back: bool) -> dict[str, Any]:
    """`window_pattern` and `short_window` of the layer types."""
    found: object = entries.take("layer_types")
    layer_types = cast("list[object]", found) if isinstance(found, list) else []
    known = {"full_attention": "L", "sliding_attention": "S"}
    first = {"hybrid": "L", "hybrid_sliding": "S"} if looks_back else known
    letters = [(known if i else first).get(str(kind)) for i, kind in enumerate(layer_types)]
    if len(letters) != depth or None in letters or letters[-1] != "L":
        raise WeightsError(
            f"{entries.path}: layer_types must have {depth} of {', '.join(known)}, the last of them full_attention"
            + (", the first hybrid or hybrid_sliding" if looks_back else "")
        )
    if "S" not in letters:
        entries.take("sliding_window")
        return {"window_pattern": "L"}
    return {"window_pattern": "".join(map(str, letters)), "short_window": entries.integer("sliding_window", least=2)}
