"""Configuration of aquarat's transformer for Hugging Face transformers (5.24 or newer)."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig

SLIDING = ("sliding_attention", "hybrid_sliding")
"""Layer types whose queries see only the last `sliding_window` tokens, their own included."""


class AquaratConfig(PreTrainedConfig):
    """Sizes and options of the model. All options are off by default.

    `layer_types` names the context of each layer for masks and caches. In a model with `embedding_taps` or `smear` the
    first layer is "hybrid" (or "hybrid_sliding"): its part of the cache also keeps the last embeddings.
    """

    model_type = "aquarat"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]

    vocab_size: int = 1024
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1.1920929e-07
    rope_parameters: dict[str, Any] | None = None
    final_logit_softcapping: float = 15.0
    layer_types: list[str] | None = None
    sliding_window: int | None = None
    qk_scale: float = 1.0
    embedding_taps: int = 0
    value_embeddings: bool = False
    residual_lambdas: bool = False
    smear: bool = False
    backout: bool = False
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.layer_types is None:
            first = "hybrid" if self.looks_back else "full_attention"
            self.layer_types = [first] + ["full_attention"] * (self.num_hidden_layers - 1)
        super().__post_init__(**kwargs)

    @property
    def looks_back(self) -> int:
        """Number of embeddings before its own that each token's embedding is mixed with."""
        return self.embedding_taps or int(self.smear)

    def has_value_embedding(self, layer: int) -> bool:
        """Whether this layer has a value embedding: every other layer does, including the last one."""
        return self.value_embeddings and layer % 2 == (self.num_hidden_layers - 1) % 2
