"""What training looked at, told from the config of each checkpoint of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.survey import readable_artifacts
from aquarat_core.config import load_profile
from aquarat_core.evaluation.looks import looks_in_training, training_sentences
from tests.evaluation.shop import Shop

REAL = {"source": "hub", "n_holdout": 500}
SOURCES = {"source": "hub", "sources": [{"name": n, "n_validation": 9} for n in ("gsm8k", "identity", "drills")]}


def trained(shop: Shop, changes: dict[str, Any]) -> Artifact:
    """The RL checkpoint at the end of a chain under the demo's profile with `changes`; no weights are read."""
    profile = load_profile("demo", changes)
    parents: tuple[Artifact, ...] = ()
    for stage in ("base", "mid", "sft", "rl"):
        made = shop.new_folder()
        (made / "model.safetensors").write_text(stage)
        section: BaseModel = profile.section(f"{stage}_checkpoint")
        config = section.model_dump(mode="json")
        parents = (shop.publish(f"{stage}_checkpoint", "checkpoint", made, (*parents, shop.aqua), **config),)
    return parents[0]


def test_losses_and_accuracies_are_counted_by_split(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    rl = trained(shop, {"rl_checkpoint": {"steps": 90, "eval_every": 25}})
    there = readable_artifacts(shop.store)
    # mid: steps 100, 200 and 250; SFT: step 80; RL: before the first and after steps 25, 50, 75 and 90.
    assert [(x.checkpoint, x.times, x.chose) for x in looks_in_training(rl, there)] == [
        ("mid_checkpoint", 3, False), ("sft_checkpoint", 1, False), ("rl_checkpoint", 5, True)
    ]  # fmt: skip
    assert training_sentences(looks_in_training(rl, there)) == [
        "Training looked at aqua (validation) 3 times in mid_checkpoint, 1 time in sft_checkpoint, 5 times in "
        "rl_checkpoint, which published the policy that was best there."
    ]
    assert looks_in_training(rl, {}) == looks_in_training(rl, there)[-1:], "nothing is known of lost ancestors"


def test_the_holdout_counts_for_the_task_that_has_one(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    by_holdout = {"validation_split": "holdout"}
    rl = trained(shop, {
        "aqua_dataset": REAL, "chat_datasets": SOURCES, "sft_checkpoint": by_holdout,
        "rl_checkpoint": {"tasks": [{"name": "aqua"}, {"name": "gsm8k"}], "publish": "last", **by_holdout},
    })  # fmt: skip
    assert training_sentences(looks_in_training(rl, readable_artifacts(shop.store))) == [
        "Training looked at aqua (validation) 3 times in mid_checkpoint.",
        "Training looked at aqua (holdout) 1 time in sft_checkpoint, 5 times in rl_checkpoint.",
        "Training looked at gsm8k (validation) 5 times in rl_checkpoint.",
    ]
