"""Names of the tensors in transformers' form. Shapes are the same, except that our tables of token ids are padded."""

from __future__ import annotations

from torch import Tensor

from aquarat_core.config import ModelConfig
from aquarat_core.model.transformer import Transformer

_TABLES = {"embedding.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight"}
_LAYER = {
    "attention.q": "self_attn.q_proj", "attention.k": "self_attn.k_proj", "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2",
}  # fmt: skip


def shared_tensors(model: Transformer) -> dict[str, Tensor]:
    """By transformers' names, views of the model's weights; tables without their padding rows.

    What is written to a view changes the model.
    """
    ours = model.state_dict()
    tables = _tables(model.config)
    shared = {theirs: ours[name][: model.vocab_size] for name, theirs in tables.items()}
    return shared | {theirs: ours[name] for name, theirs in _others(model.config).items()}


def padding_rows(model: Transformer) -> list[Tensor]:
    """Views of the rows that have no token id."""
    ours = model.state_dict()
    return [ours[name][model.vocab_size :] for name in _tables(model.config)]


def _tables(config: ModelConfig) -> dict[str, str]:
    """Our tables with one row for each token id, and their names there."""
    return _TABLES | {
        f"value_embeddings.{i}.weight": f"model.layers.{i}.self_attn.value_embedding.weight"
        for i in range(config.depth)
        if config.has_value_embedding(i)
    }


def _others(config: ModelConfig) -> dict[str, str]:
    found = {
        f"blocks.{i}.{ours}.weight": f"model.layers.{i}.{theirs}.weight"
        for i in range(config.depth)
        for ours, theirs in _LAYER.items()
    }
    for i in range(config.depth):
        if config.has_value_embedding(i):
            found[f"blocks.{i}.attention.value_gate.weight"] = f"model.layers.{i}.self_attn.value_gate.weight"
    singles = [
        *["taps"][: config.embedding_taps],
        *["smear_gate.weight", "smear_lambda"][: 2 * config.smear],
        *["residual_lambdas", "embedding_lambdas"][: 2 * config.residual_lambdas],
        *["backout_lambda"][: config.backout],
    ]
    return found | {name: f"model.{name}" for name in singles}
