"""`depth` of a profile: what follows from it, what stays as set by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from aquarat_core.cli.config import origins_of
from aquarat_core.config import ConfigError, load_profile, override
from aquarat_core.config.overrides import overrides
from aquarat_core.config.profile import layers


def file(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_file_that_turns_the_dial_gets_the_rates_of_its_depth(tmp_path: Path) -> None:
    mine = load_profile(file(tmp_path, "extends: d12\ndescription: deeper\ndepth: 24\n"))
    assert (mine.name, mine.depth) == ("mine", 24)
    there = load_profile("d24")
    for section in ("base_checkpoint", "mid_checkpoint", "sft_checkpoint", "rl_checkpoint", "pretrain_text"):
        assert getattr(mine, section) == getattr(there, section)
    assert mine.base_checkpoint.micro_batch_rows < load_profile("d12").base_checkpoint.micro_batch_rows


def test_another_depth_of_the_model_is_refused_not_run_with_the_old_rates(tmp_path: Path) -> None:
    wrong = "extends: d12\nbase_checkpoint: {model: {depth: 24}}\n"
    with pytest.raises(
        ConfigError, match="would keep the rates, batch and text of depth 12: they follow from depth: 24"
    ):
        load_profile(file(tmp_path, wrong))
    with pytest.raises(ConfigError, match="follow from depth: 24 at the top of the profile, or from --depth 24"):
        overrides(load_profile("d12"), ["base_checkpoint.model.depth=24"])


def test_what_is_set_by_hand_stays_and_the_rest_follows_it(tmp_path: Path) -> None:
    text = "extends: d12\ndepth: 20\nbase_checkpoint: {batch_tokens: 524288, micro_batch_rows: 4}\n"
    base = load_profile(file(tmp_path, text)).base_checkpoint
    assert (base.batch_tokens, base.micro_batch_rows) == (524_288, 4)
    # The square root of half of d20's batch, and a decay for that batch: 0.1002 / sqrt(2).
    assert base.optim.lr_scale == 1.0 and base.optim.weight_decay == pytest.approx(0.0709, abs=1e-4)
    child = "extends: mine.yaml\nname: child\nbase_checkpoint: {optim: {lr_scale: 0.9}}\n"
    inherited = load_profile(file(tmp_path, child, "child.yaml")).base_checkpoint
    assert (inherited.batch_tokens, inherited.optim.lr_scale) == (524_288, 0.9)
    # Who turns the dial again gets everything anew.
    again = load_profile(file(tmp_path, "extends: mine.yaml\ndepth: 12\n", "again.yaml")).base_checkpoint
    assert again == load_profile("d12").base_checkpoint


def test_values_follow_from_the_whole_profile(tmp_path: Path) -> None:
    """A larger vocabulary, other ratios and fewer GPUs count, also where a later file sets them."""
    longer = load_profile(file(tmp_path, "extends: d12\nbase_checkpoint: {tokens_per_parameter: 24}\n"))
    # Twice the tokens: 2^0.383 = 1.30 times the batch, which rounds down to the same power of two; half the decay.
    assert longer.base_checkpoint.batch_tokens == 524_288
    assert longer.base_checkpoint.optim.weight_decay == pytest.approx(0.14)
    assert len(longer.pretrain_text.shards) == pytest.approx(2 * len(load_profile("d12").pretrain_text.shards), abs=1)
    six = "extends: d12\nbase_checkpoint: {launch: {nproc: 6}}\n"
    base = load_profile(file(tmp_path, six)).base_checkpoint
    assert base.batch_tokens == 524_288, "what is learned does not depend on the number of ranks"
    assert -(-256 // 6) % base.micro_batch_rows == 0
    steps = load_profile(file(tmp_path, "extends: d12\nbase_checkpoint: {steps: 1260}\n")).base_checkpoint
    assert steps.tokens_per_parameter is None
    # Half of d12's 2,520 steps at the same batch: twice its decay.
    assert steps.optim.weight_decay == pytest.approx(0.56, rel=1e-3)


def test_a_profile_of_ones_own_for_cpus_can_get_a_dial(tmp_path: Path) -> None:
    mine = file(tmp_path, "extends: demo\nname: six\ndepth: 6\nbase_checkpoint: {steps: 50, batch_tokens: 4096}\n")
    base = load_profile(mine).base_checkpoint
    assert (base.model.depth, base.model.dim, base.micro_batch_rows, base.steps) == (6, 384, 4, 50)
    # (4,096 / 524,288)^0.5
    assert base.tokens_per_parameter is None and base.optim.lr_scale == 0.08839
    rule = origins_of(mine, {"base_checkpoint": {"micro_batch_rows": 4}})["base_checkpoint.micro_batch_rows"]
    assert rule == "depth 6: a few rows: CPUs gain nothing from more"


def test_depth_on_the_command_line() -> None:
    assert load_profile(depth=20) == load_profile("d20") == load_profile("d12", depth=20)
    fifteen = load_profile(depth=15)
    assert (fifteen.name, fifteen.depth, fifteen.base_checkpoint.model.dim) == ("d15", 15, 1024)
    assert load_profile("d8", depth=10).name == "d8-d10"
    # The smaller batches of questions are d8's own, not derived.
    assert load_profile("d8", depth=10).rl_checkpoint.prompts_per_step == 32
    with pytest.raises(ConfigError, match="profile demo has values of its own for its size"):
        load_profile("demo", depth=8)


def test_a_file_keeps_its_own_values_under_another_depth_on_the_command_line(tmp_path: Path) -> None:
    mine = file(tmp_path, "extends: d12\nname: mine\ndepth: 20\nbase_checkpoint: {optim: {lr_scale: 0.5}}\n")
    turned = load_profile(mine, depth=16)
    assert (turned.name, turned.depth, turned.base_checkpoint.optim.lr_scale) == ("mine-d16", 16, 0.5)
    assert turned.base_checkpoint.batch_tokens == load_profile("d16").base_checkpoint.batch_tokens


def test_a_profile_that_cannot_fit_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"needs 251 GB on each rank even with one row .* take a smaller depth"):
        load_profile(depth=64)


def test_the_origin_of_a_derived_value_is_its_rule() -> None:
    profile = load_profile("d20")
    origins = origins_of("d20", profile.model_dump(mode="json"))
    assert origins["base_checkpoint.optim.lr_scale"] == "depth 20: (batch / 524,288)^0.5"
    assert origins["base_checkpoint.model.width"].startswith("depth 20: 64 x depth")
    assert origins["base_checkpoint.optim.matrix_lr"] == "d12"
    assert origins["depth"] == "d20"
    assert origins_of("d12", profile.model_dump(mode="json"), 20) == origins


def test_the_hash_is_that_of_the_values_however_they_came_about(tmp_path: Path) -> None:
    twenty = load_profile("d20")
    assert load_profile(file(tmp_path, twenty.to_json().decode())).sha256 == twenty.sha256
    assert override(twenty, {}).sha256 == twenty.sha256
    # Profiles without a depth keep the hash that they had before there was a dial.
    assert b'"depth": null' not in load_profile("demo").to_json()
    assert all(source == "demo" for source, _ in layers("demo"))


def test_a_wrong_value_is_reported_once_as_in_any_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        load_profile(file(tmp_path, "extends: d12\nbase_checkpoint: {batch_tokens: many}\n"))
    assert "base_checkpoint.batch_tokens" in str(e.value) and str(e.value).count("\n") == 1
    with pytest.raises(ConfigError, match="depth: Input should be less than or equal to 64"):
        load_profile(file(tmp_path, "extends: d12\ndepth: 65\n"))
