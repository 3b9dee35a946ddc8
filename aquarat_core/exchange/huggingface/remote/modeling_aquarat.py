"""aquarat's transformer as a model of Hugging Face transformers (5.24 or newer): this file and its configuration.

A decoder-only transformer with rotary positions, RMS norms without gains (one after the embedding, two in each layer,
one before the head, and one of queries and keys), a squared-ReLU MLP, grouped-query attention, untied embedding and
head, and soft-capped logits. Each option is one field of the configuration:

- `embedding_taps`: each embedding has the embeddings of the tokens before it added, scaled per channel;
- `smear`: each normalized embedding has a gated share of the previous one added;
- `layer_types`, `sliding_window`: layers that see only the last tokens;
- `value_embeddings`: every other layer adds a gated embedding of the token to its values;
- `residual_lambdas`: each layer first scales the residual stream and adds a share of the embeddings;
- `backout`: a share of the residual stream at half depth is subtracted before the head;
- `qk_scale`: normalized queries and keys are each multiplied by this.

Attention runs through `ALL_ATTENTION_FUNCTIONS`. Batches may be padded on either side if `attention_mask` says where.

Shapes: B rows, T tokens, C width, H query heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_aquarat import SLIDING, AquaratConfig

VALUE_GATE = 3.0
"""Maximum weight of a value embedding."""
VALUE_GATE_CHANNELS = 12
"""Channels of the residual stream that the gate of a value embedding reads."""
SMEAR_CHANNELS = 24
"""Channels of an embedding that its smear gate reads."""

MASKS: dict[bool, Callable[..., Any]] = {False: create_causal_mask, True: create_sliding_window_causal_mask}
"""What makes the mask of layers without and with a window."""


def norm(x: Tensor, eps: float) -> Tensor:
    """RMS normalization over the last dimension, without a gain."""
    return F.rms_norm(x, (x.size(-1),), eps=eps)


def rotary(config: AquaratConfig, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, T, 1, D/2] of the positions' angles."""
    base, size = config.rope_parameters["rope_theta"], config.head_dim
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=position_ids.device) / size
    angles = position_ids[..., None, None].float() * base**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates pairs of features, one of each half, by their position's angle."""
    x1, x2 = x_BTHD.chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention step by step, which also returns its probabilities. The mask is added to the scores."""
    key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class AquaratAttention(nn.Module):
    """Causal self-attention with rotary positions, normalized queries and keys, and shared key/value heads."""

    def __init__(self, config: AquaratConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.qk_scale**2 * self.head_dim**-0.5
        width, kv_width = config.hidden_size, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(width, config.num_attention_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_width, bias=False)
        self.v_proj = nn.Linear(width, kv_width, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, width, bias=False)
        if config.has_value_embedding(layer_idx):
            self.value_embedding = nn.Embedding(config.vocab_size, kv_width)
            self.value_gate = nn.Linear(VALUE_GATE_CHANNELS, config.num_key_value_heads, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        input_ids: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Any,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        B, T, _ = hidden_states.shape
        q, k, v = (
            projection(hidden_states).view(B, T, -1, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.config.has_value_embedding(self.layer_idx):
            gate_BTK = VALUE_GATE * torch.sigmoid(self.value_gate(hidden_states[..., :VALUE_GATE_CHANNELS]))
            v = v + gate_BTK[..., None] * self.value_embedding(input_ids).view_as(v)
        q, k = (norm(rotate(x, *position_embeddings), self.config.rms_norm_eps) for x in (q, k))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        y, weights = attend(self, q, k, v, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.o_proj(y.reshape(B, T, -1).contiguous()), weights


class AquaratMLP(nn.Module):
    """Two matrices with a squared ReLU between them."""

    def __init__(self, config: AquaratConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)).square())


class AquaratDecoderLayer(GradientCheckpointingLayer):
    """Attention and MLP, each applied to the normalized residual stream and added to it."""

    def __init__(self, config: AquaratConfig, layer_idx: int) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.self_attn = AquaratAttention(config, layer_idx)
        self.mlp = AquaratMLP(config)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        attended, _ = self.self_attn(norm(hidden_states, self.eps), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(norm(hidden_states, self.eps))


class AquaratPreTrainedModel(PreTrainedModel):
    config_class = AquaratConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["AquaratDecoderLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar[dict[str, Any]] = {
        "hidden_states": AquaratDecoderLayer,
        "attentions": AquaratAttention,
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AquaratModel):
            for name, parameter in module.named_parameters(recurse=False):
                (nn.init.ones_ if name == "residual_lambdas" else nn.init.zeros_)(parameter)


class AquaratModel(AquaratPreTrainedModel):
    """Token ids in, the normalized residual stream after the last layer out."""

    def __init__(self, config: AquaratConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(AquaratDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        if config.embedding_taps:
            self.taps = nn.Parameter(torch.zeros(config.embedding_taps, config.hidden_size))
        if config.smear:
            self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
            self.smear_lambda = nn.Parameter(torch.zeros(1))
        if config.residual_lambdas:
            self.residual_lambdas = nn.Parameter(torch.ones(config.num_hidden_layers))
            self.embedding_lambdas = nn.Parameter(torch.zeros(config.num_hidden_layers))
        if config.backout:
            self.backout_lambda = nn.Parameter(torch.zeros(1))
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        config = self.config
        cache = kwargs.pop("past_key_values", None) if cache is None else cache
        self._check(input_ids, inputs_embeds, attention_mask, cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and cache is None:
            cache = DynamicCache(config=config)
        if position_ids is None:
            n_seen = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(x.size(1), device=x.device) + n_seen)[None]
        given = {"attention_mask": attention_mask, "cache": cache, "position_ids": position_ids}
        windowed = [layer_type in SLIDING for layer_type in config.layer_types]
        masks = {kind: MASKS[kind](config=config, inputs_embeds=x, **given) for kind in set(windowed)}
        x = first = halfway = self._mixed(x, position_ids, attention_mask, cache)
        cos_sin = rotary(config, position_ids, x.dtype)
        for i, layer in enumerate(self.layers):
            if config.residual_lambdas:
                x = self.residual_lambdas[i] * x + self.embedding_lambdas[i] * first
            x = layer(
                x,
                input_ids=input_ids,
                position_embeddings=cos_sin,
                attention_mask=masks[windowed[i]],
                cache=cache,
                **kwargs,
            )
            if i == config.num_hidden_layers // 2:
                halfway = x
        if config.backout:
            x = x - self.backout_lambda * halfway
        return BaseModelOutputWithPast(last_hidden_state=norm(x, config.rms_norm_eps), cache=cache)

    def _check(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, attention_mask: Any, cache: Cache | None
    ) -> None:
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if input_ids is None and config.value_embeddings:
            raise ValueError("this model looks up value embeddings by token: it needs input_ids, not inputs_embeds")
        if not config.looks_back:
            return
        if config._attn_implementation == "vllm":
            raise ValueError(
                "vLLM puts the new tokens of all sequences into one row, but the embeddings of this model are mixed "
                "with those of the tokens before them: run it with transformers' generate()"
            )
        if attention_mask is not None and getattr(attention_mask, "ndim", 0) != 2:
            raise ValueError("this model needs to know which tokens are padding: give a 2D attention_mask")
        if cache is not None and not (cache.layers and hasattr(cache.layers[0], "update_conv_state")):
            raise ValueError("this model also caches embeddings: make its cache by DynamicCache(config=model.config)")

    def _mixed(self, x: Tensor, position_ids: Tensor, attention_mask: Tensor | None, cache: Cache | None) -> Tensor:
        """The normalized embeddings [B, T, C], mixed with those of the tokens before them by taps or smear."""
        config, T = self.config, x.size(1)
        n = config.embedding_taps
        if n:
            before = self._with_previous(x, n, attention_mask, cache)
            for back in range(1, n + 1):
                exists_BT1 = (position_ids >= back)[..., None]
                x = x + self.taps[back - 1] * before[:, n - back : n - back + T] * exists_BT1
        x = norm(x, config.rms_norm_eps)
        if config.smear:
            before = self._with_previous(x, 1, attention_mask, cache)
            gate_BT1 = self.smear_lambda * torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))
            x = x + gate_BT1 * before[:, :T] * (position_ids >= 1)[..., None]
        return x

    def _with_previous(self, x: Tensor, n: int, attention_mask: Tensor | None, cache: Cache | None) -> Tensor:
        """[B, n + T, C]: x after the n embeddings before it, zero where there are none. The cache keeps the last n."""
        T = x.size(1)
        if attention_mask is not None:
            x = x * attention_mask[:, -T:, None].to(x.dtype)
        if cache is not None:
            x = cache.update_conv_state(x.transpose(1, 2), 0, conv_kernel_size=n).transpose(1, 2)
        return F.pad(x, (0, 0, n + T - x.size(1), 0))


class AquaratForCausalLM(AquaratPreTrainedModel, GenerationMixin):
    """The language model: token ids in, soft-capped float32 logits out."""

    def __init__(self, config: AquaratConfig) -> None:
        super().__init__(config)
        self.model = AquaratModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        """Leaves the mask as it is for caches of fixed size: `AquaratModel` makes the masks of its layers itself."""
        return attention_mask

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        cap = self.config.final_logit_softcapping
        hidden_states = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        logits = cap * torch.tanh(self.lm_head(hidden_states).float() / cap)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = ["AquaratForCausalLM", "AquaratModel", "AquaratPreTrainedModel"]
