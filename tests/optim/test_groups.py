"""Which parameter is updated by what, at which rate."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.config import OptimConfig
from aquarat_core.optim.groups import parameter_groups
from tests.factories import random_model
from tests.model.test_transformer import MODERN


def test_every_parameter_has_one_owner_and_its_rate() -> None:
    model = random_model(n_kv_head=2, embedding_taps=2)
    config = OptimConfig(matrix_lr=0.02, embedding_lr=0.2, unembedding_lr=0.004, lr_scale=0.5, weight_decay=0.1)
    groups = parameter_groups(model, config)
    assert sum(len(g.params) for g in groups) == len(list(model.parameters())) == 2 * 6 + 3
    assert {g.name: [n for n, _ in g.params] for g in groups if not g.muon} == {
        "embedding": ["embedding.weight"], "head": ["head.weight"], "taps": ["taps"],
    }  # fmt: skip
    width = (32 / 768) ** -0.5
    assert {g.name: g.peak_lr for g in groups} == pytest.approx(
        {"matrices": 0.01, "embedding": 0.1 * width, "head": 0.002 * width, "taps": 0.002 * width}
    )
    assert [(g.name, g.weight_decay) for g in groups if g.weight_decay] == [("matrices", 0.1)]
    assert {n for n, _ in groups[0].params} == {n for n, _ in model.named_parameters() if n.startswith("blocks.")}


def test_the_options_parameters_have_groups_of_their_own() -> None:
    model = random_model(**MODERN)
    groups = {g.name: [n for n, _ in g.params] for g in parameter_groups(model, OptimConfig())}
    assert groups["value_embeddings"] == ["value_embeddings.1.weight"]
    assert groups["gates"] == ["blocks.1.attention.value_gate.weight", "smear_gate.weight"]
    assert groups["scalars"] == ["embedding_lambdas", "backout_lambda"]
    assert groups["residual_lambdas"] == ["residual_lambdas"] and groups["smear"] == ["smear_lambda"]


def test_a_parameter_without_a_rule_is_noticed() -> None:
    model = random_model()
    model.extra = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(AssertionError, match="must partition the parameters"):
        parameter_groups(model, OptimConfig())
