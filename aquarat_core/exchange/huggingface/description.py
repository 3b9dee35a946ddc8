"""`config.json` in transformers' form: what describes our model there."""

from __future__ import annotations

from typing import Any

from aquarat_core.config import ModelConfig
from aquarat_core.errors import WeightsError
from aquarat_core.model.fused import NORM_EPS
from aquarat_core.text.tokenizer import Tokenizer

NANOCHAT, AQUARAT = "nanochat", "aquarat"
"""Values of `model_type`: the library's own class, and the one that a release carries."""
MADE_FOR = "5.24.0"
"""The version of transformers whose interfaces the carried class uses."""
BOS, END = "<|bos|>", "<|assistant_end|>"
AUTO_MAP = {
    "AutoConfig": "configuration_aquarat.AquaratConfig",
    "AutoModel": "modeling_aquarat.AquaratModel",
    "AutoModelForCausalLM": "modeling_aquarat.AquaratForCausalLM",
}


def beyond_nanochat(config: ModelConfig) -> list[str]:
    """The options of the model that transformers' NanoChat class does not have, in words."""
    short = min(config.windows)
    options = {
        f"qk_scale {config.qk_scale:g}": config.qk_scale != 1.0,
        f"embedding_taps {config.embedding_taps}": config.embedding_taps > 0,
        f"layers that see {short} tokens (window_pattern {config.window_pattern})": short < config.sequence_len,
        "value_embeddings": config.value_embeddings,
        "residual_lambdas": config.residual_lambdas,
        "smear": config.smear,
        "backout": config.backout,
    }
    return [option for option, used in options.items() if used]


def describe(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of `config.json` for a model with the tokenizer's ids.

    Raises `WeightsError` for a window that transformers cannot cache.
    """
    remote = bool(beyond_nanochat(config))
    end = tokenizer.special(END)
    common: dict[str, Any] = {
        "architectures": ["AquaratForCausalLM" if remote else "NanoChatForCausalLM"],
        "model_type": AQUARAT if remote else NANOCHAT,
        "transformers_version": MADE_FOR,
        "dtype": "float32",
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": 4 * config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": config.sequence_len,
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "final_logit_softcapping": config.softcap,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": tokenizer.special(BOS),
        "eos_token_id": end,
        # Not <|bos|>: `generate` would take the first token of every prompt for padding.
        "pad_token_id": end,
    }
    own = _options(config) if remote else {"hidden_act": "relu2", "attention_bias": False, "attention_dropout": 0.0}
    return common | own


def _options(config: ModelConfig) -> dict[str, Any]:
    short = min(config.windows)
    windowed = [window < config.sequence_len for window in config.windows]
    if any(windowed) and short == 1:
        raise WeightsError("short_window is 1, which transformers cannot cache: a release needs windows of 2 or more")
    layer_types = ["sliding_attention" if narrow else "full_attention" for narrow in windowed]
    if config.embedding_taps or config.smear:
        layer_types[0] = "hybrid_sliding" if windowed[0] else "hybrid"
    return {
        "auto_map": AUTO_MAP,
        "head_dim": config.head_size,
        "layer_types": layer_types,
        "sliding_window": short if any(windowed) else None,
        "qk_scale": config.qk_scale,
        "embedding_taps": config.embedding_taps,
        "value_embeddings": config.value_embeddings,
        "residual_lambdas": config.residual_lambdas,
        "smear": config.smear,
        "backout": config.backout,
    }


def generation_defaults(tokenizer: Tokenizer, max_new_tokens: int) -> dict[str, Any]:
    """The content of `generation_config.json`: greedy, until the end of a message or the next document."""
    bos, end = tokenizer.special(BOS), tokenizer.special(END)
    return {
        "bos_token_id": bos,
        "eos_token_id": [end, bos],
        "pad_token_id": end,
        "do_sample": False,
        "max_new_tokens": max_new_tokens,
        "transformers_version": MADE_FOR,
    }
