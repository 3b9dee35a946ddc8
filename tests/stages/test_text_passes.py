"""Duplicates and held-out questions are left out of pretraining text, shard by shard, and counted."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.artifacts import Artifact
from aquarat_core.config import ConfigError, load_profile
from aquarat_core.data.documents import read_documents
from aquarat_core.errors import DataError
from aquarat_core.stages import own_text, pretrain_text, sharded
from aquarat_core.stages.code_version import sources
from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.stage import CORE_QUESTIONS, TEXT_PASSES, module_of
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.aqua.question import Question
from tests.evaluation.bundles import row_of, write_bundle, write_rows
from tests.stages.conftest import Bench

WAYS = ("without a store", "in this process", "in others")
HELD_OUT = "A train 120 m long crosses a bridge 380 m long in 25 seconds at what steady speed in km per hour?"
WINOGRAD = {
    "context_options": [f"The box did not fit into the bag because the {what}" for what in ("bag", "box")],
    "continuation": "was much too large.", "gold": 1,
}  # fmt: skip
SHORT = "How many fences do three painters paint today?"


def document(seed: int, words: int = 120) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(words))


def edited(text: str) -> str:
    """The same text with one other word."""
    words = text.split()
    return " ".join([*words[:60], "edited", *words[61:]])


def rows(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


TEXTS = [document(n) for n in range(12)]
# Shards of four documents, because each has about 840 bytes.
TRAIN = [
    *TEXTS[:4],
    TEXTS[4], TEXTS[1].upper(), TEXTS[5], edited(TEXTS[0]),
    TEXTS[6], edited(TEXTS[5]), TEXTS[10].replace(" ", "\n"), TEXTS[7],
]  # fmt: skip
VALIDATION = [TEXTS[10], TEXTS[11], TEXTS[10]]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_text, "SHARD_BYTES", 3_200)


@pytest.fixture(scope="module")
def questions(bench: Bench) -> Artifact:
    def write(folder: Path) -> None:
        options = ("10", "20", "30", "40", "50")
        for split, text in (("validation", HELD_OUT), ("test", SHORT)):
            write_questions(folder / f"{split}.parquet", [Question(f"{split}-0", text, options, "So.", "A")])

    return bench.make("aqua_dataset", write)


def run(
    bench: Bench, tmp_path: Path, train: Sequence[str], way: str = WAYS[1], validation: Sequence[str] = VALIDATION,
    inputs: dict[str, Artifact] | None = None, **config: Any,
) -> Artifact:  # fmt: skip
    """The artifact of the stage for these documents."""
    paths = {
        "train": rows(tmp_path / "train.jsonl", train),
        "validation": rows(tmp_path / "validation.jsonl", validation),
    }
    ctx = bench.context("pretrain_text", {"source": "files", **paths, **config}, **(inputs or {}))
    with pytest.MonkeyPatch.context() as patch:
        if way != WAYS[0]:
            ctx.shards = bench.store
        if way == WAYS[2]:
            patch.setattr(sharded, "SMALL", 0)
        metrics = pretrain_text.run(ctx)
    made = bench.store.publish(
        asset="pretrain_text", kind="dataset", directory=ctx.outdir, config={}, profile="unit", code=ctx.spec.code,
        parents=(), metrics=metrics, seeds={}, run_id="run", stored=ctx.stored,
    )  # fmt: skip
    assert made.is_complete()
    return made


def forget(bench: Bench) -> None:
    for key in list(bench.store.backend.keys("shards/")):
        bench.store.backend.delete(key)


def shards_of(bench: Bench) -> Counter[str]:
    """The names of the shards that are done, without the files that they are about."""
    found = bench.store.backend.keys("shards/pretrain_text/")
    names = [json.loads(bench.store.backend.read(key).data)["name"] for key in found]
    return Counter(name.split(" of ")[0].split(" in ")[0] if " without " not in name else "filter" for name in names)


def kept(made: Artifact) -> dict[str, list[str]]:
    files = sorted(f.path for f in made.manifest.files if f.path.endswith(".parquet"))
    return {file: list(read_documents(made.path(file))) for file in files}


def left_out(made: Artifact) -> dict[str, Any]:
    return json.loads(made.path("left_out.json").read_text())


def test_without_passes_nothing_is_different(bench: Bench, tmp_path: Path) -> None:
    before = shards_of(bench)
    made = run(bench, tmp_path, TRAIN, duplicates="none", decontaminate=[])
    assert [f.path for f in made.manifest.files] == [
        "shards.json", *(f"train-{n:05d}.parquet" for n in range(3)), "validation.parquet"
    ]  # fmt: skip
    assert shards_of(bench) == before and not any("duplicates" in name for name in made.manifest.metrics)
    assert [text for file, texts in kept(made).items() if file != "validation.parquet" for text in texts] == TRAIN


@pytest.mark.parametrize("duplicates", ["exact", "near"])
def test_the_first_of_duplicates_stays(bench: Bench, tmp_path: Path, duplicates: str) -> None:
    made = []
    for way in WAYS:
        forget(bench)
        made.append(run(bench, tmp_path, TRAIN, way, duplicates=duplicates))
    hashes = [{f.path: f.sha256 for f in one.manifest.files} for one in made]
    assert hashes[0] == hashes[1] == hashes[2]
    near = duplicates == "near"
    assert kept(made[0]) == {
        "train-00000.parquet": TRAIN[:4],
        "train-00001.parquet": [TRAIN[4], TRAIN[6]] if near else [TRAIN[4], TRAIN[6], TRAIN[7]],
        "train-00002.parquet": [TRAIN[8], TRAIN[11]] if near else [TRAIN[8], TRAIN[9], TRAIN[11]],
        "validation.parquet": VALIDATION,
    }
    found, metrics = left_out(made[0]), made[0].manifest.metrics
    assert metrics["exact_duplicates"] == 2 and metrics.get("near_duplicates") == (2 if near else None)
    assert metrics["left_out_documents"] == len(found["examples"]) == (4 if near else 2)
    assert metrics["train_documents"] == 12 - metrics["left_out_documents"]
    listed = json.loads(made[0].path("shards.json").read_text())
    for shard in listed:
        texts = kept(made[0])[shard["file"]]
        assert shard["documents"] == len(texts) and shard["text_bytes"] == sum(len(t.encode()) for t in texts)
    assert metrics["train_bytes"] == sum(shard["text_bytes"] for shard in listed[:-1])
    of_second = {"documents": 4, "kept": 2 if near else 3, "exact_duplicates": 1}
    assert found["shards"]["train-00001.parquet"] == of_second | ({"near_duplicates": 1} if near else {})
    assert found["examples"][0] == {
        "reason": "exact_duplicates", "file": "train-00001.parquet", "document": 1, "text": TRAIN[5][:300],
        "first_file": "train-00000.parquet", "first_document": 1, "first_text": TRAIN[1][:300],
    }  # fmt: skip
    of_validation = [e for e in found["examples"] if e["first_file"] == "validation.parquet"]
    assert [(e["file"], e["document"], e["first_document"]) for e in of_validation] == [("train-00002.parquet", 2, 0)]


def test_the_order_decides_which_stays_and_not_how_many(bench: Bench, tmp_path: Path) -> None:
    there, back = (run(bench, tmp_path, texts, duplicates="near") for texts in (TRAIN, TRAIN[::-1]))
    for name in ("exact_duplicates", "near_duplicates", "train_documents"):
        assert there.manifest.metrics[name] == back.manifest.metrics[name], name
    texts = [text for file, found in kept(back).items() if file != "validation.parquet" for text in found]
    assert edited(TEXTS[0]) in texts and TEXTS[0] not in texts


def test_a_shard_that_is_added_leaves_the_others_as_they_are(bench: Bench, tmp_path: Path, questions: Artifact) -> None:
    forget(bench)
    config: dict[str, Any] = {"duplicates": "near", "decontaminate": ["aqua"], "inputs": {"aqua_dataset": questions}}
    before = run(bench, tmp_path, TRAIN, **config)
    assert shards_of(bench) == {"signatures": 4, "held-out questions": 3, "filter": 2, "examples": 4}
    run(bench, tmp_path, TRAIN, **config)
    assert sum(shards_of(bench).values()) == 13, "nothing is made again"
    after = run(bench, tmp_path, [*TRAIN, TEXTS[8], TEXTS[4], TEXTS[9], TEXTS[8]], **config)
    made = shards_of(bench)
    assert made["signatures"] == 5 and made["held-out questions"] == 4 and made["filter"] == 3
    assert kept(after).items() >= kept(before).items()
    assert kept(after)["train-00003.parquet"] == [TEXTS[8], TEXTS[9]]
    forget(bench)
    exact = config | {"duplicates": "exact"}
    run(bench, tmp_path, TRAIN, **config)
    run(bench, tmp_path, TRAIN, **exact)
    assert shards_of(bench)["held-out questions"] == 3, "the passes do not depend on each other"


def test_documents_with_held_out_questions_are_left_out(bench: Bench, tmp_path: Path, questions: Artifact) -> None:
    words = HELD_OUT.split()
    texts = [
        f"{TEXTS[0]}\n{' '.join(words[3:16]).upper()}, they asked. {TEXTS[1]}",
        f"{TEXTS[2]} {' '.join(words[:12])} {TEXTS[3]}",
        f"{TEXTS[4]} {SHORT}",
        f"{TEXTS[5]} {SHORT.replace('three', 'four')}",
        TEXTS[6],
        f"{TEXTS[4]} {SHORT}",
    ]
    inputs = {"aqua_dataset": questions}
    made = [run(bench, tmp_path, texts, way, decontaminate=["aqua"], inputs=inputs) for way in WAYS]
    assert len({one.data_version for one in made}) == 1
    found = kept(made[0])
    found.pop("validation.parquet")
    assert [text for texts in found.values() for text in texts] == [texts[1], texts[3], texts[4]]
    assert made[0].manifest.metrics["contaminated"] == made[0].manifest.metrics["left_out_documents"] == 3
    assert "exact_duplicates" not in made[0].manifest.metrics
    said = left_out(made[0])
    assert said["questions"] == {"aqua/test/test-0": 2, "aqua/validation/validation-0": 1}
    assert said["tasks"] == {"aqua": 3}
    assert said["decontaminate"] == ["aqua"] and said["examples"][0]["question_text"] == HELD_OUT
    both = run(bench, tmp_path, texts, decontaminate=["aqua"], duplicates="exact", inputs=inputs)
    assert both.manifest.metrics["left_out_documents"] == 3, "each document is counted once"
    assert both.manifest.metrics["contaminated"] == 2 and both.manifest.metrics["exact_duplicates"] == 1


def test_documents_with_questions_of_core_are_left_out(bench: Bench, tmp_path: Path, questions: Artifact) -> None:
    def write(folder: Path) -> None:
        write_bundle(folder)
        write_rows(folder, "winograd", [WINOGRAD] * 2)

    bundle = bench.make("eval_bundle", write)
    passage = row_of("lambada_openai", 3)["context"]
    texts = [
        f"{TEXTS[0]} {' '.join(passage.split()[4:17])} {TEXTS[1]}",
        f"{TEXTS[2]} {' '.join(passage.split()[4:16])} {TEXTS[3]}",
        f"{TEXTS[4]} {WINOGRAD['context_options'][1]} {WINOGRAD['continuation']}",
        f"{TEXTS[5]} {WINOGRAD['context_options'][0]} {WINOGRAD['continuation']}",
        f"{TEXTS[6]} {row_of('copa', 1)['query'] * 3}",
        f"{TEXTS[7]} {SHORT}",
    ]
    inputs = {"aqua_dataset": questions, "eval_bundle": bundle}
    made = run(bench, tmp_path, texts, decontaminate=["core", "aqua"], inputs=inputs)
    found = kept(made)
    found.pop("validation.parquet")
    assert [text for texts in found.values() for text in texts] == [texts[1], texts[3], texts[4]]
    said = left_out(made)
    assert said["tasks"] == {"aqua": 1, "core/lambada_openai": 1, "core/winograd": 1}
    assert said["questions"] == {"aqua/test/test-0": 1, "core/lambada_openai/4": 1, "core/winograd/1": 1}
    assert {e["question_text"] for e in said["examples"]} >= {
        passage,
        f"{WINOGRAD['context_options'][1]} {WINOGRAD['continuation']}",
    }
    assert made.manifest.metrics["contaminated"] == 3


def test_generated_documents_that_are_added_may_repeat(bench: Bench, tmp_path: Path, questions: Artifact) -> None:
    config = {"added_documents": 300, "max_level": 1}
    plain = run(bench, tmp_path, TRAIN, **config)
    made = run(bench, tmp_path, TRAIN, duplicates="near", **config)
    assert kept(made)["train-00003.parquet"] == kept(plain)["train-00003.parquet"]
    assert made.manifest.metrics["near_duplicates"] == 2
    searched = run(bench, tmp_path, TRAIN, decontaminate=["aqua"], inputs={"aqua_dataset": questions}, **config)
    assert left_out(searched)["shards"].keys() >= {"train-00003.parquet"}


def test_shards_of_which_nothing_is_left(bench: Bench, tmp_path: Path) -> None:
    made = run(bench, tmp_path, [*TEXTS[:4], *TEXTS[:4], *TEXTS[4:6]], duplicates="exact")
    assert list(kept(made)) == ["train-00000.parquet", "train-00002.parquet", "validation.parquet"]
    assert left_out(made)["shards"]["train-00001.parquet"] == {"documents": 4, "kept": 0, "exact_duplicates": 4}
    assert made.manifest.metrics["train_shards"] == 2 and made.manifest.metrics["exact_duplicates"] == 4
    with pytest.raises(DataError, match=r"no training document is left.*pretrain_text\.duplicates"):
        run(bench, tmp_path, [edited(TEXTS[10])], duplicates="near")


def test_few_examples_are_shown(bench: Bench, tmp_path: Path) -> None:
    made = run(bench, tmp_path, [*TEXTS[:4], *TEXTS[:3] * 12], duplicates="exact")
    assert made.manifest.metrics["exact_duplicates"] == 36
    examples = left_out(made)["examples"]
    assert len(examples) == 10 and max(Counter(e["file"] for e in examples).values()) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"duplicates": "fuzzy"}, "none"),
        ({"decontaminate": ["gsm9k"]}, "pretrain_text.decontaminate names 'gsm9k'"),
        ({"decontaminate": ["gsm8k"]}, "add {name: gsm8k} to chat_datasets.sources"),
        ({"decontaminate": "aqua"}, "pretrain_text.decontaminate"),
    ],
)
def test_bad_values_are_refused_with_a_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_profile("demo", {"pretrain_text": given})
    assert said in str(refused.value) and "Traceback" not in str(refused.value)


def test_the_stage_only_needs_and_is_made_of_what_its_config_asks_for() -> None:
    stage = STAGES["pretrain_text"]
    plain = load_profile("demo")
    assert stage.needs(stage.config(plain)) == ()
    assert module_of(TEXT_PASSES) not in sources().modules(stage, stage.config(plain))
    near = load_profile("demo", {"pretrain_text": {"duplicates": "near"}})
    assert stage.needs(stage.config(near)) == ()
    assert module_of(TEXT_PASSES) in sources().modules(stage, stage.config(near))
    clean = stage.config(load_profile("demo", {"pretrain_text": {"decontaminate": ["task"]}}))
    assert clean.decontaminate == ("aqua",) and stage.needs(clean) == ("aqua_dataset",)
    assert "aquarat_core.tasks.aqua.task" in sources().modules(stage, clean)
    assert module_of(CORE_QUESTIONS) not in sources().modules(stage, clean)
    with_core = stage.config(load_profile("demo", {"pretrain_text": {"decontaminate": ["core"]}}))
    assert stage.needs(with_core) == ("eval_bundle",)
    assert module_of(CORE_QUESTIONS) in sources().modules(stage, with_core)


def test_core_can_only_be_named_for_pretraining_text() -> None:
    for stage in ("mid_checkpoint", "sft_checkpoint", "rl_checkpoint"):
        with pytest.raises(ConfigError, match=f"{stage}.decontaminate names 'core', which only pretrain_text"):
            load_profile("demo", {stage: {"decontaminate": ["core"]}})
