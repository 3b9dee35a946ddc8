"""The variants of `./run bench recipe` change what they say, and nothing stays changed."""

from __future__ import annotations

import math

import pytest
import torch

from aquarat_core.config import ModelConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim import muon
from aquarat_core.runtime.distributed import World
from aquarat_core.training import optimizer as training
from benchmarks import recipe

CONFIG = ModelConfig(depth=2, width=64, head_size=32, sequence_len=16, value_embeddings=True, residual_lambdas=True)


def fresh() -> Transformer:
    model = Transformer(CONFIG, 300)
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def updater(model: Transformer) -> training.ShardedOptimizer:
    return training.ShardedOptimizer(model, recipe.OPTIM, 10, World(0, 1, torch.device("cpu"), torch.float32))


def test_initializations() -> None:
    ours, parts = fresh(), recipe.PARTS
    for name, of, factor in (
        ("embedding std 0.8", "embedding.weight", 0.8),
        ("up x 0.4", "blocks.1.mlp.up.weight", 0.4),
    ):
        model = fresh()
        parts[name].start(model)
        torch.testing.assert_close(model.get_parameter(of), factor * ours.get_parameter(of))
    model = fresh()
    parts["gates above 0"].start(model)
    gate = model.get_parameter("blocks.1.attention.value_gate.weight")
    assert 0 <= gate.min().item() < gate.max().item() <= 0.02


def test_muon_equalizes_rows_before_and_sets_the_norm_after() -> None:
    x = torch.randn(6, 24, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 6)[:, None]
    plain, after = (recipe._with(before, after)(x) for before, after in ((False, False), (False, True)))
    torch.testing.assert_close(plain, muon.orthogonalize(x))
    assert float(after.norm()) == pytest.approx(math.sqrt(6), rel=1e-5)
    torch.testing.assert_close(after / after.norm(), plain / plain.norm())
    # With rows of equal length the smallest row is no longer beyond what five steps can lift.
    equal = recipe._with(True, False)(x)
    assert float(plain[0].norm()) < 0.5 < float(equal[0].norm())


def test_wide_matrices_are_normalized_by_columns() -> None:
    with recipe._patched(recipe.PARTS["NorMuon by columns"]):
        moments = updater(fresh()).moments
    assert moments["blocks.0.mlp.down.weight", 0]["second"].shape == (1, 256)
    assert moments["blocks.0.mlp.up.weight", 0]["second"].shape == (256, 1)
    update, seen = torch.tensor([[1.0, 10.0, 10.0], [1.0, 10.0, 10.0]]), torch.zeros(1, 3)
    scaled = recipe._normalize_along_longer(update, seen, 0.9)
    assert float(scaled.std()) == pytest.approx(0, abs=1e-5) and float(scaled.norm()) == pytest.approx(
        float(update.norm())
    )


def test_the_decay_of_what_adamw_trains() -> None:
    with recipe._patched(recipe.PARTS["AdamW decay"]):
        groups = {group.name: group for group in training.parameter_groups(fresh(), recipe.OPTIM)}
    assert {name: groups[name].weight_decay for name in recipe.ADAMW_DECAY} == recipe.ADAMW_DECAY
    assert groups["matrices"].weight_decay == recipe.OPTIM.weight_decay
    assert training.parameter_groups(fresh(), recipe.OPTIM)[1].weight_decay == 0, "the change ends with the variant"


def test_all_of_them_are_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    everything = recipe.variants()["all of these"]
    assert {name for _, name, _ in everything.patches} == {
        "parameter_groups", "orthogonalize", "_fresh_moments", "normuon_normalize",
    }  # fmt: skip
    assert recipe.main(["--only", "nothing"]) == 2
    assert "there is no variant nothing; there are ours, embedding std 0.8" in capsys.readouterr().err
