"""Sections of the tokenizer and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from aquarat_core.config.fields import Positive, PositiveInt, StrictModel

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


class TokenizerConfig(StrictModel):
    """The byte-pair encoding to train."""

    OLD_NAMES: ClassVar[Mapping[str, str]] = {"doc_cap": "max_chars_per_document"}

    vocab_size: Annotated[int, Field(ge=300, le=65_536)] = 1_024
    """Total number of ids: 256 bytes, the merges and the special tokens."""
    pattern: str = SPLIT_PATTERN
    """Regular expression whose matches are encoded separately; merges never cross their boundaries."""
    max_chars: PositiveInt = 20_000_000
    """Maximum number of characters of training text that are counted: problems and conversations first, then an equal
    share of each shard of pretraining text."""
    max_chars_per_document: PositiveInt = 10_000
    """Maximum number of characters of one document that are counted."""
    tasks: tuple[str, ...] = ()
    """The tasks whose training questions it is trained on; filled in from the tasks that the profile's stages use."""


class ModelConfig(StrictModel):
    """Size and options of the transformer."""

    depth: Annotated[int, Field(ge=1, le=64)] = 4
    """Transformer layers."""
    width_per_layer: Annotated[int, Field(ge=8, le=256)] = 64
    """Model width divided by depth; 64 is the usual choice."""
    width: PositiveInt | None = None
    """Model width; null means `depth` times `width_per_layer`."""
    head_size: Annotated[int, Field(ge=8, le=256, multiple_of=2)] = 64
    """Width of an attention head; the model width must be a multiple of it."""
    n_kv_head: PositiveInt | None = None
    """Key/value heads; null means as many as query heads (no grouped-query attention)."""
    sequence_len: Annotated[int, Field(ge=16, le=65_536)] = 512
    """Context length: tokens of a training row, and of a prompt with its completion."""
    embedding_taps: Annotated[int, Field(ge=0, le=8)] = 0
    """Width of a causal convolution over the embeddings, with which each token also sees the embeddings before it."""
    mimetic_init: bool = False
    """Initialize each key matrix as a copy of its query matrix, so that attention begins by matching equal tokens."""
    window_pattern: Annotated[str, Field(pattern="^[LS]+$")] = "L"
    """Context of each layer, repeated over the depth: L sees everything, S a quarter of `sequence_len`, rounded up to a
    multiple of 128 tokens. The last layer always sees everything."""
    short_window: PositiveInt | None = None
    """Tokens that an S layer sees, including the current one; null means a quarter of `sequence_len`, as above."""
    value_embeddings: bool = False
    """Every other layer adds a gated embedding of the token to its values."""
    residual_lambdas: bool = False
    """Every layer scales the residual stream and adds a share of the embeddings again; both factors are learned."""
    smear: bool = False
    """Each position adds a gated share of the previous token's embedding."""
    backout: bool = False
    """A learned share of the residual stream at half depth is subtracted before the head."""
    qk_scale: Positive = 1.2
    """Normalized queries and keys are each multiplied by this; without it attention cannot become sharp."""
    rope_base: Positive = 10_000.0
    """Base of the rotary embedding's wavelengths."""
    softcap: Positive = 15.0
    """Logits x are smoothly bounded: softcap * tanh(x / softcap)."""

    @property
    def dim(self) -> int:
        return self.width or self.depth * self.width_per_layer

    @property
    def n_head(self) -> int:
        return self.dim // self.head_size

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def windows(self) -> tuple[int, ...]:
        """Number of tokens that each layer sees, including the current one."""
        quarter = -(-self.sequence_len // 4 // 128) * 128
        short = min(self.sequence_len, self.short_window or quarter)
        pattern = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.depth - 1)] + ["L"]
        return tuple(short if letter == "S" else self.sequence_len for letter in pattern)

    def has_value_embedding(self, layer: int) -> bool:
        """Whether this layer has a value embedding: every other layer does, including the last one."""
        return self.value_embeddings and layer % 2 == (self.depth - 1) % 2

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelConfig:
        if self.smear and self.embedding_taps:
            raise ValueError("smear and embedding_taps both mix in the previous tokens: set only one of them")
        if self.smear and self.dim < 24:
            raise ValueError(f"smear reads 24 channels, but the width is only {self.dim}")
        if self.dim % self.head_size:
            raise ValueError(
                f"head_size {self.head_size} does not divide the width {self.dim}, which is width or depth x "
                "width_per_layer"
            )
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_kv_head {self.n_kv_head} does not divide the {self.n_head} query heads")
        return self
