"""The checks of data sets, the tokenizer and checkpoints, on artifacts with and without the fault."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.config import TokenizerConfig, load_profile
from aquarat_core.stages.registry import STAGES
from aquarat_core.tasks.aqua.files import read_questions, write_questions
from aquarat_core.tasks.aqua.synthetic import generate_questions
from aquarat_core.text.tokenizer import train_tokenizer
from aquarat_pipeline.checks.check import Subject
from aquarat_pipeline.checks.table import checks_of, results
from aquarat_pipeline.experiments import Experiment

HUB = {"source": "hub", "repo": "deepmind/aqua_rat"}
Publish = Callable[..., Artifact]
Look = Callable[..., dg.AssetCheckResult]


@pytest.fixture
def publish(store_uri: str, tmp_path: Path) -> Publish:
    """Publishes an artifact of the files that `write` leaves."""

    def call(
        asset: str, write: Callable[[Path], object], records: dict[str, str] | None = None, **fields: Any
    ) -> Artifact:
        folder, kept = tmp_path / f"{asset}-files", tmp_path / f"{asset}-records"
        for path in (folder, kept):
            path.mkdir(exist_ok=True)
        write(folder)
        for name, text in (records or {}).items():
            (kept / name).write_text(text)
        return ArtifactStore.open(store_uri).publish(
            asset=asset, kind=STAGES[asset].kind, directory=folder, records=kept, profile="demo", seeds={}, run_id="r",
            code=CodeVersion(version="c"), **{"config": {}, "metrics": {}, "parents": (), **fields},
        )  # fmt: skip

    return call


@pytest.fixture
def look(instance: dg.DagsterInstance) -> Look:
    """The result of one check of an artifact."""

    def call(artifact: Artifact, name: str) -> dg.AssetCheckResult:
        made = dg.AssetMaterialization(artifact.asset)
        stage = STAGES[artifact.asset]
        subject = Subject(instance, Experiment(load_profile("demo")), stage, artifact, made, None, recorded=False)
        return next(result for check, result in results(subject) if check.name == name)

    return call


def questions(folder: Path, leaked: int = 0) -> None:
    train, held_out = generate_questions(300, seed=1, max_level=2), generate_questions(60, seed=2, max_level=2)
    texts = {q.question for q in held_out}
    train = [q for q in train if q.question not in texts]
    write_questions(folder / "train.parquet", [*train, *held_out[:leaked]])
    write_questions(folder / "validation.parquet", held_out[:30])
    write_questions(folder / "test.parquet", held_out[30:])


def cleaning(folder: Path, train: int) -> None:
    counts = {"train": {"kept": train - 7, "dropped_repeated": 7, "question_space": 3}}
    counts |= {split: {"kept": 254} for split in ("validation", "test")}
    (folder / "cleaning.json").write_text(json.dumps({"counts": counts}))


def test_every_check_is_a_sentence_and_says_how_serious_it_is() -> None:
    for stage in STAGES.values():
        checks = checks_of(stage)
        assert len({check.name for check in checks}) == len(checks)
        for check in checks:
            assert check.description[0].isupper() and check.description.endswith("."), check.name
    blocking = {check.name for stage in STAGES.values() for check in checks_of(stage) if check.blocking}
    assert blocking == {
        "artifact_complete", "lineage_agrees", "no_leakage", "round_trip", "loss_is_sane", "parse_rate_holds",
    }  # fmt: skip


@pytest.mark.parametrize(("train", "passed"), [(97_467, True), (97_466, False)])
def test_as_many_rows_were_read_as_are_published(publish: Publish, look: Look, train: int, passed: bool) -> None:
    found = look(publish("aqua_dataset", lambda folder: cleaning(folder, train), config=HUB), "row_counts")
    assert found.passed is passed and (passed or found.severity == dg.AssetCheckSeverity.WARN)
    assert found.description.startswith(f"{train:,} train, 254 validation, 254 test rows were read")
    own = publish("aqua_dataset", lambda folder: cleaning(folder, train), config={"source": "synthetic"})
    assert look(own, "row_counts").passed, "generated questions have no published counts"


def shares(validation_a: float, test_a: float) -> dict[str, Any]:
    found: dict[str, Any] = {"rows_train": 90_000, "rows_validation": 254, "rows_test": 254}
    for split, a in (("train", 0.2), ("validation", validation_a), ("test", test_a)):
        found |= {f"{split}_share_{letter}": a if letter == "A" else (1 - a) / 4 for letter in "ABCDE"}
    return found


@pytest.mark.parametrize(
    ("config", "metrics", "passed"),
    [
        (HUB, shares(69 / 254, 63 / 254), True),
        (HUB, shares(0.45, 63 / 254), False),
        ({"source": "synthetic"}, shares(0.2, 0.2), True),
        ({"source": "synthetic"}, shares(0.2, 69 / 254), True),
        ({"source": "synthetic"}, shares(0.2, 0.4), False),
    ],
)
def test_letters_are_compared_with_the_published_ones(
    publish: Publish, look: Look, config: dict[str, Any], metrics: dict[str, Any], passed: bool
) -> None:
    found = look(publish("aqua_dataset", questions, config=config, metrics=metrics), "letters_as_expected")
    assert found.passed is passed, found.description
    assert "standard errors" in found.description


def test_a_training_question_that_is_also_held_out_is_found(publish: Publish, look: Look) -> None:
    assert look(publish("aqua_dataset", questions), "no_leakage").passed
    found = look(publish("aqua_dataset", lambda folder: questions(folder, leaked=3)), "no_leakage")
    assert (found.passed, found.severity, found.metadata["leaked"].value) == (False, dg.AssetCheckSeverity.ERROR, 3)

    def set_aside(folder: Path) -> None:
        questions(folder)
        write_questions(folder / "holdout.parquet", read_questions(folder / "train.parquet")[:2])

    found = look(publish("aqua_dataset", set_aside), "no_leakage")
    assert (found.passed, found.metadata["leaked"].value) == (False, 2)
    assert found.description == "2 training questions are also validation or test or holdout questions."


def test_a_tokenizer_that_changes_texts_fails(publish: Publish, look: Look) -> None:
    texts = [f"{n} apples and {n + 1} pears" for n in range(300)]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=400))

    def write(folder: Path) -> None:
        tokenizer.save(folder / "tokenizer.json")

    made = publish("tokenizer", write)
    found = look(made, "round_trip")
    assert found.passed, found.description

    def damage(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(document)[:-40])

    found = look(publish("tokenizer", damage), "round_trip")
    assert not found.passed and found.description.startswith("It could not be evaluated: ")


@pytest.mark.parametrize(("own", "passed"), [(2.5, True), (1.9, False)])
def test_compression_is_compared_with_what_is_installed(publish: Publish, look: Look, own: float, passed: bool) -> None:
    metrics = {"bytes_per_token_questions": own, "cl100k_bytes_per_token_questions": 2.55}
    found = look(publish("tokenizer", questions, metrics=metrics), "compression")
    assert found.passed is passed and (passed or found.severity == dg.AssetCheckSeverity.WARN)
    assert found.description == f"{own:.2f} bytes of questions per token, GPT-4 2.55."
    assert look(publish("tokenizer", questions), "compression").passed, "there is nothing to compare with"


@pytest.mark.parametrize(
    ("loss", "passed", "severity"),
    [(0.5, True, None), (0.7, False, dg.AssetCheckSeverity.WARN), (9.0, False, dg.AssetCheckSeverity.ERROR)],
)
def test_a_loss_is_below_the_entropy_of_single_tokens(
    publish: Publish, look: Look, loss: float, passed: bool, severity: dg.AssetCheckSeverity | None
) -> None:
    ids = np.array([3] * 500 + [7] * 500, dtype="<u2")
    tokens = publish(
        "pretrain_tokens", lambda f: ids.tofile(f / "validation.bin"), metrics={"validation_tokens": len(ids)}
    )
    parents, metrics = (tokens.as_parent(),), {"val_loss": loss, "vocab_size": 100}
    base = publish("base_checkpoint", questions, parents=parents, metrics=metrics)
    found = look(base, "loss_is_sane")
    assert found.passed is passed, found.description
    assert severity is None or found.severity == severity
    assert (f"{math.log(2):.3f}" in found.description) == (severity != dg.AssetCheckSeverity.ERROR)


def reward_rows(silent: float, letter: float) -> str:
    rows = [
        {"step": i, "rl/mean_reward": 0.5, "rl/silent": float(i < silent * 20), "rl/letter_A": letter,
         "rl/letter_B": 1 - letter}
        for i in range(20)
    ]  # fmt: skip
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.mark.parametrize(
    ("silent", "letter", "said"),
    [
        (0.2, 0.4, None),
        (1.0, 0.4, "All answers of each group earned the same."),
        (0.2, 0.97, "97% of the answers are A."),
    ],
)
def test_a_degenerate_reward_warns(
    publish: Publish, look: Look, silent: float, letter: float, said: str | None
) -> None:
    rl = publish("rl_checkpoint", questions, {"metrics.jsonl": reward_rows(silent, letter)})
    found = look(rl, "reward_not_degenerate")
    assert found.passed is (said is None)
    assert said is None or (found.description.endswith(said) and found.severity == dg.AssetCheckSeverity.WARN)


def test_rewards_on_two_scales_are_not_averaged(publish: Publish, look: Look) -> None:
    rows = [
        {"step": i, "rl/mean_reward": 0.4 if i < 17 else 0.2, "rl/silent": 0.0}
        | ({"rl/exact_reward": 0.2} if i >= 17 else {})
        for i in range(20)
    ]
    rl = publish("rl_checkpoint", questions, {"metrics.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows)})
    found = look(rl, "reward_not_degenerate")
    assert found.passed and found.description.startswith("Mean exact reward of the last 3 steps 0.200; ")


@pytest.mark.parametrize(
    ("difference", "p", "passed"), [(0.03, 1e-6, True), (-0.01, 0.4, True), (-0.03, 1e-4, False), (None, None, True)]
)
def test_rl_that_is_worse_than_sft_beyond_noise_warns(
    publish: Publish, look: Look, difference: float | None, p: float | None, passed: bool
) -> None:
    report = publish("rl_eval_report", questions, metrics={"parent_difference": difference, "mcnemar_p": p})
    assert look(report, "not_worse_than_stage_before").passed is passed


def test_a_mistake_in_a_check_is_a_warning(publish: Publish, look: Look) -> None:
    report = publish("rl_eval_report", questions, metrics={"accuracy": 0.5})
    found = look(report, "beats_constant_letter")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == "It could not be evaluated: KeyError: 'accuracy_lo'"
