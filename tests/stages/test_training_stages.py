"""Tokenizer, base, mid, SFT and RL stages on small data: what they write, what they report, when they refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import checkpoint_store
from aquarat_core.config import ConfigError, accounting, load_profile, override
from aquarat_core.data.conversations import read_conversations
from aquarat_core.data.packed_files import open_rows
from aquarat_core.errors import DataError, StageError, UserError
from aquarat_core.model.checkpoint import load_checkpoint, save_checkpoint
from aquarat_core.rl.trainer import Stopping, Trainer
from aquarat_core.stages import base_checkpoint, chat_training, pretrain_tokens, rl_checkpoint
from aquarat_core.stages import tokenizer as tokenizer_stage
from aquarat_core.stages.base import StageContext
from aquarat_core.stages.chat_rows import pack
from aquarat_core.tasks.aqua.files import read_questions, write_questions
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.example_files import write_examples
from aquarat_core.tasks.mixture import StoredConversations, whole
from aquarat_core.tasks.numeric import numeric_example
from aquarat_core.text.chat import render
from aquarat_core.text.tokenizer import Tokenizer
from tests.factories import CPU, guesser, random_model, reading_questions, reading_tokenizer
from tests.stages.conftest import ALONE, Bench

pytestmark = pytest.mark.slow

MODEL = {"depth": 2, "width_per_layer": 16, "head_size": 16, "sequence_len": 128}
TRAIN = {
    "launch": ALONE,
    "steps": 12,
    "batch_tokens": 8 * 128,
    "micro_batch_rows": 8,
    "eval_every": 6,
    "eval_tokens": 512,
}


def losses(records: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (records / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tokenizer(bench: Bench, data: dict[str, Artifact]) -> Artifact:
    ctx = bench.context("tokenizer", {"vocab_size": 400}, **data)
    metrics = tokenizer_stage.run(ctx)
    texts = pq.read_table(data["pretrain_text"].path("validation.parquet"))["text"].to_pylist()
    made = Tokenizer.load(ctx.outdir / "tokenizer.json")
    assert metrics["vocab_size"] == made.vocab_size
    assert metrics["bytes_per_token"] == sum(len(t.encode()) for t in texts) / sum(len(made.encode(t)) for t in texts)
    assert metrics["bytes_per_token"] > 1.3 and metrics["bytes_per_token_questions"] > 1.3
    assert metrics["longest_token_bytes"] == made.token_bytes().max()
    report = json.loads((ctx.extras_dir / "report.json").read_text())
    assert report["compression"]["validation"]["own"]["bytes_per_token"] == metrics["bytes_per_token"]
    assert sum(report["token_lengths"].values()) == len(made.merges)
    return bench.publish("tokenizer", ctx.outdir)


@pytest.fixture(scope="module")
def tokens(bench: Bench, data: dict[str, Artifact], tokenizer: Artifact) -> Artifact:
    ctx = bench.context("pretrain_tokens", None, tokenizer=tokenizer, pretrain_text=data["pretrain_text"])
    metrics = pretrain_tokens.run(ctx)
    made = Tokenizer.load(tokenizer.path("tokenizer.json"))
    texts = pq.read_table(data["pretrain_text"].path("validation.parquet"))["text"].to_pylist()
    flat = np.fromfile(ctx.outdir / "validation.bin", "<u2")
    bos = made.special("<|bos|>")
    assert flat.tolist() == [i for text in texts for i in (bos, *made.encode(text))]
    assert metrics["validation_tokens"] == len(flat) and metrics["train_documents"] == 300
    assert (ctx.outdir / "train-00000.bin").stat().st_size == 2 * metrics["train_tokens"]
    return bench.publish("pretrain_tokens", ctx.outdir)


@pytest.fixture(scope="module")
def base(bench: Bench, tokens: Artifact, tokenizer: Artifact) -> Artifact:
    inputs = {"tokenizer": tokenizer, "pretrain_tokens": tokens}
    ctx = bench.context("base_checkpoint", TRAIN | {"model": MODEL}, **inputs)
    metrics = base_checkpoint.run(ctx)
    curve = losses(ctx.extras_dir)
    assert curve[0] == pytest.approx(math.log(400), abs=0.01) and curve[-1] < curve[0] - 1
    assert len(curve) == metrics["steps"] == 12 and metrics["train_loss"] == curve[-1]
    assert metrics["parameters"] == accounting.parameters(ctx.config.model, 400)
    assert (metrics["tokens"], metrics["ranks"], metrics["skipped_steps"]) == (12 * 8 * 128, 1, 0)
    assert 0 < metrics["val_bpb"] < metrics["val_loss"] / math.log(2)
    assert {p.name for p in ctx.outdir.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json"}

    again = bench.context("base_checkpoint", TRAIN | {"model": MODEL}, **inputs)
    base_checkpoint.run(again)
    for path in ctx.outdir.iterdir():
        assert (again.outdir / path.name).read_bytes() == path.read_bytes(), f"a second run gave another {path.name}"
    return bench.publish("base_checkpoint", ctx.outdir, ctx.extras_dir)


def test_mid_and_sft_go_on_from_their_parent(bench: Bench, data: dict[str, Artifact], base: Artifact) -> None:
    data = {name: data[name] for name in ("chat_datasets", "aqua_dataset")}
    mixture = [{"name": "drills"}, {"name": "aqua", "limit": 100}]
    mid = bench.context("mid_checkpoint", TRAIN | {"mixture": mixture}, base_checkpoint=base, **data)
    metrics = chat_training.run_mid(mid)
    assert (metrics["conversations"] + metrics["too_long"], metrics["ranks"]) == (200, 1)
    assert metrics["too_long_share"] == metrics["too_long"] / 200 and metrics["trimmed"] == 0
    curve = losses(mid.extras_dir)
    assert curve[0] < math.log(400) - 0.5  # not from scratch
    parent = bench.publish("mid_checkpoint", mid.outdir)

    sft = bench.context("sft_checkpoint", TRAIN | {"steps": 3}, mid_checkpoint=parent, **data)
    metrics = chat_training.run_sft(sft)
    assert metrics["conversations"] + metrics["too_long"] == 200  # aqua alone, as the default mixture says
    weights = [
        load_checkpoint(f, CPU, torch.float32)[0].head.weight for f in (base.directory(), mid.outdir, sft.outdir)
    ]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert (sft.outdir / "tokenizer.json").read_bytes() == base.path("tokenizer.json").read_bytes()


def test_rows_with_a_held_out_question_are_left_out_counted_and_listed(
    bench: Bench, data: dict[str, Artifact], base: Artifact
) -> None:
    """The validation questions are generated as the training questions are, so many are alike."""
    inputs = {name: data[name] for name in ("chat_datasets", "aqua_dataset")}
    mixture = [{"name": "drills"}, {"name": "aqua", "limit": 100}]
    config = TRAIN | {"mixture": mixture, "decontaminate": ["aqua"], "steps": 1}
    ctx = bench.context("mid_checkpoint", config, base_checkpoint=base, **inputs)
    metrics = chat_training.run_mid(ctx)
    listed = json.loads((ctx.extras_dir / "decontamination.json").read_text())
    assert metrics["contaminated"] == len(listed) > 0
    assert metrics["contaminated"] == metrics["contaminated_aqua"] + metrics["contaminated_drills"]
    held_out = {f"aqua/validation/{q.id}" for q in read_questions(data["aqua_dataset"].path("validation.parquet"))}
    trained = {q.id for q in read_questions(data["aqua_dataset"].path("train.parquet"))}
    assert {row["held_out"] for row in listed} <= held_out
    assert {row["row"] for row in listed if row["source"] == "aqua"} <= trained
    drills = 100 - metrics["contaminated_drills"]
    left = min(100, 200 - metrics["contaminated_aqua"])
    assert metrics["conversations"] + metrics["too_long"] == drills + left
    plain = bench.context("mid_checkpoint", TRAIN | {"mixture": mixture, "steps": 1}, base_checkpoint=base, **inputs)
    assert not any("contaminated" in name for name in chat_training.run_mid(plain))
    assert not (plain.extras_dir / "decontamination.json").exists()


def test_sft_learns_what_the_assistant_says_and_mid_training_all(
    bench: Bench, data: dict[str, Artifact], base: Artifact, tmp_path: Path
) -> None:
    tok = Tokenizer.load(base.path("tokenizer.json"))
    file = data["chat_datasets"].path("drills.train.parquet")
    configs = {
        loss_on: bench.context("sft_checkpoint", {"loss_on": loss_on}).config for loss_on in ("all", "assistant")
    }
    rows = {}
    for loss_on, config in configs.items():
        made = pack(whole(StoredConversations(file)), tok, 128, config, tmp_path, loss_on)
        rows[loss_on] = open_rows(tmp_path, loss_on, 128, tok.vocab_size)
        assert (made.kept, made.too_long, made.trimmed) == (100, 0, 0)
    rendered = [render(tok, c.messages) for c in read_conversations(file)]
    assert rows["assistant"].mask.sum() == sum(sum(mask) for _, mask in rendered)
    assert rows["all"].mask.sum() == sum(len(ids) for ids, _ in rendered)
    assert rows["all"].ids.tolist() == rows["assistant"].ids.tolist()


def test_conversations_longer_than_the_model_reads_are_the_users_to_mend(
    bench: Bench, data: dict[str, Artifact], tokenizer: Artifact
) -> None:
    tok = Tokenizer.load(tokenizer.path("tokenizer.json"))
    short = bench.make(
        "mid_checkpoint",
        lambda folder: save_checkpoint(
            folder, random_model(tok.vocab_size, sequence_len=16), tokenizer.path("tokenizer.json")
        ),
    )
    inputs = {name: data[name] for name in ("chat_datasets", "aqua_dataset")}
    ctx = bench.context("sft_checkpoint", TRAIN, mid_checkpoint=short, **inputs)
    with pytest.raises(
        DataError, match=r"none of 200 conversations fits a row of 17 tokens: raise model\.sequence_len"
    ):
        chat_training.run_sft(ctx)


def test_a_mixture_of_what_is_not_there_is_refused_with_the_nearest_name(
    bench: Bench, data: dict[str, Artifact], base: Artifact
) -> None:
    inputs = {name: data[name] for name in ("chat_datasets", "aqua_dataset")}
    ctx = bench.context("mid_checkpoint", TRAIN | {"mixture": [{"name": "dril"}]}, base_checkpoint=base, **inputs)
    with pytest.raises(DataError, match=r"names 'dril': did you mean 'drills'\? there are drills"):
        chat_training.run_mid(ctx)
    assert list(ctx.outdir.iterdir()) == []


# --- reinforcement learning -----------------------------------------------------------------------------------------

RL = {
    "launch": ALONE, "steps": 3, "prompts_per_step": 8, "group_size": 4, "max_new_tokens": 8, "eval_every": 2,
    "eval_questions": 10, "optim": {"lr_scale": 0.3},
}  # fmt: skip


@pytest.fixture(scope="module")
def reading(bench: Bench) -> dict[str, Artifact]:
    """Questions that say which letter to answer, and a policy that answers in form but guesses."""

    def aqua(folder: Path) -> None:
        write_questions(folder / "train.parquet", reading_questions(40))
        write_questions(folder / "validation.parquet", reading_questions(20, first=1000))

    def policy(folder: Path) -> None:
        reading_tokenizer().save(folder / "trained.json")
        save_checkpoint(folder, guesser(), folder / "trained.json")
        (folder / "trained.json").unlink()

    bench.scratch = bench.scratch / "reading"
    return {"aqua_dataset": bench.make("aqua_dataset", aqua), "sft_checkpoint": bench.make("sft_checkpoint", policy)}


def test_rl_trains_measures_and_saves(bench: Bench, reading: dict[str, Artifact]) -> None:
    ctx = bench.context("rl_checkpoint", RL, **reading)
    metrics = rl_checkpoint.run(ctx)
    rows = [json.loads(line) for line in (ctx.extras_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 2, 3]
    assert metrics["held_out_accuracy_before"] == rows[0]["eval/accuracy"] == 0.2
    assert metrics["reward_mean_first"] == rows[1]["rl/mean_reward"] and rows[1]["rl/kl_sequence_mean"] == 0.0
    assert metrics["kl_sequence_mean"] == rows[3]["rl/kl_sequence_mean"] > 0.0
    tokens = sum(row["rl/completion_length_mean"] for row in rows[1:]) * 8 * 4
    assert metrics["sampled_tokens"] == pytest.approx(tokens, abs=1)
    assert all(row["rl/sampler_logp_difference"] < 1e-4 for row in rows[1:])
    before, after = (
        load_checkpoint(f, CPU, torch.float32)[0] for f in (reading["sft_checkpoint"].directory(), ctx.outdir)
    )
    assert not torch.equal(before.head.weight, after.head.weight)

    again = bench.context("rl_checkpoint", RL, **reading)
    rl_checkpoint.run(again)
    assert (again.outdir / "model.safetensors").read_bytes() == (ctx.outdir / "model.safetensors").read_bytes()


def test_rl_chooses_by_the_holdout_and_leaves_out_what_it_is_judged_by(
    bench: Bench, reading: dict[str, Artifact]
) -> None:
    def write(folder: Path) -> None:
        write_questions(folder / "train.parquet", reading_questions(40))
        write_questions(folder / "validation.parquet", [replace(reading_questions(1)[0], id="v0")])
        write_questions(folder / "holdout.parquet", reading_questions(20, first=1000))

    bench.scratch = bench.scratch / "holdout"
    own = reading | {"aqua_dataset": bench.make("aqua_dataset", write)}
    by_holdout = bench.context("rl_checkpoint", RL | {"validation_split": "holdout"}, **own)
    metrics = rl_checkpoint.run(by_holdout)
    as_before = bench.context("rl_checkpoint", RL, **reading)
    expected = rl_checkpoint.run(as_before)
    assert metrics["held_out_accuracy_best"] == expected["held_out_accuracy_best"]
    weights = [(ctx.outdir / "model.safetensors").read_bytes() for ctx in (by_holdout, as_before)]
    assert weights[0] == weights[1], "the same questions, under another name"
    with pytest.raises(StageError, match=r"no holdout questions of aqua: set aqua_dataset\.n_holdout above 0"):
        rl_checkpoint.run(bench.context("rl_checkpoint", RL | {"validation_split": "holdout"}, **reading))

    strict = {"validation_split": "holdout", "decontaminate": ["aqua"]}
    ctx = bench.context("rl_checkpoint", RL | strict, **own)
    metrics = rl_checkpoint.run(ctx)
    listed = json.loads((ctx.extras_dir / "decontamination.json").read_text())
    assert listed[0] == {
        "source": "aqua", "row": reading_questions(1)[0].id, "held_out": "aqua/validation/v0", "rule": "same_text"
    }  # fmt: skip
    assert metrics["questions"] == 40 - len(listed) and metrics["contaminated_aqua"] == len(listed)


def test_rl_stops_at_once_where_there_is_nothing_to_learn_from(
    bench: Bench, base: Artifact, data: dict[str, Artifact], reading: dict[str, Artifact]
) -> None:
    hopeless = {"sft_checkpoint": base, "aqua_dataset": reading["aqua_dataset"]}
    with pytest.raises(
        StageError, match=r"only 0% of the first completions .* train SFT longer, or raise rl_checkpoint\.max"
    ):
        rl_checkpoint.run(bench.context("rl_checkpoint", RL, **hopeless))
    with pytest.raises(StageError, match=r"mean reward of the first completions is 0\.000 .* answers are never right"):
        rl_checkpoint.run(bench.context("rl_checkpoint", RL | {"min_parse_rate": 0.0}, **hopeless))


def test_rl_says_what_to_lower_when_prompts_do_not_fit(bench: Bench, reading: dict[str, Artifact]) -> None:
    ctx = bench.context("rl_checkpoint", RL | {"max_new_tokens": 64}, **reading)
    with pytest.raises(
        StageError,
        match=r"too few questions leave room .* 64 \(aqua: 0 training and 0 held-out\), .*: lower max_new",
    ):
        rl_checkpoint.run(ctx)


def test_one_long_question_neither_stops_rl_nor_counts_in_it(
    bench: Bench, reading: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained without it from the start, the policy is the same bit for bit."""
    questions = reading_questions(40)
    long = Question("long", "Say" + " A" * 500, questions[0].options, "", "A", "reading")

    def dataset(train: list[Question], name: str) -> Artifact:
        def write(folder: Path) -> None:
            write_questions(folder / "train.parquet", train)
            write_questions(folder / "validation.parquet", [*reading_questions(10, first=40), long])

        folder = bench.scratch / name
        folder.mkdir()
        write(folder)
        return bench.publish("aqua_dataset", folder)

    runs = {}
    for name, train in (("with", [*questions, long]), ("without", questions)):
        ctx = bench.context("rl_checkpoint", RL, **reading | {"aqua_dataset": dataset(train, f"long-{name}")})
        runs[name] = rl_checkpoint.run(ctx), (ctx.outdir / "model.safetensors").read_bytes()
    assert runs["with"][1] == runs["without"][1]
    found = [runs["with"][0][name] for name in ("questions", "questions_left_out", "held_out_questions_left_out")]
    assert found == [40, 1, 1]
    said = capsys.readouterr().err
    assert "1 of 41 training questions and 1 of 11 held-out questions of aqua are left out" in said


def test_an_unknown_field_is_refused_with_the_fields_there_are(bench: Bench) -> None:
    from aquarat_core.config import RLConfig, validate

    with pytest.raises(ConfigError, match=r"optim\.lr: unknown field; known here: .*lr_scale"):
        validate(RLConfig, {"optim": {"lr": 1.0}}, "rl_checkpoint")


# --- reinforcement learning on two tasks, one of them with numbers --------------------------------------------------

BOTH = RL | {
    "tasks": [{"name": "aqua", "weight": 3}, {"name": "sums", "weight": 1}],
    "max_first_reward": 1.0, "min_first_reward": 0.0, "min_parse_rate": 0.0, "max_zero_variance": 1.0,
}  # fmt: skip


def both(bench: Bench, reading: dict[str, Artifact], folder: Path, **config: Any) -> StageContext:
    """RL on AQuA and on a task of numbers that a profile defines."""
    (folder / "rows.jsonl").write_text("")
    task = {"kind": "numeric", "train": str(folder / "rows.jsonl")}
    (folder / "both.yaml").write_text(yaml.safe_dump({"extends": "demo", "tasks": {"sums": task}}))
    profile = override(load_profile(str(folder / "both.yaml")), {"rl_checkpoint": BOTH | config})
    ctx = bench.context("rl_checkpoint", RL, **reading)
    ctx.config = profile.section("rl_checkpoint")
    return ctx


@pytest.fixture(scope="module")
def sums(bench: Bench) -> Artifact:
    def chats(folder: Path) -> None:
        for split, first, n in (("train", 0, 12), ("validation", 100, 6)):
            rows = [numeric_example(f"s{i}", f"{i} + 1?", str(i + 1), None) for i in range(first, first + n)]
            write_examples(folder / f"sums.{split}.parquet", rows)
        (folder / "sources.json").write_text('{"sums": {"kind": "numeric", "letters": 0}}')

    bench.scratch = bench.scratch / "sums"
    return bench.make("chat_datasets", chats)


def test_rl_on_letters_and_numbers_measures_each_by_its_own_rules(
    bench: Bench, reading: dict[str, Artifact], sums: Artifact, tmp_path: Path
) -> None:
    inputs = reading | {"chat_datasets": sums}
    ctx = both(bench, inputs, tmp_path)
    metrics = rl_checkpoint.run(ctx)
    rows = [json.loads(line) for line in (ctx.extras_dir / "metrics.jsonl").read_text().splitlines()]
    assert (metrics["questions"], metrics["chance_aqua"], metrics["chance_sums"]) == (52, pytest.approx(0.2), 0.0)
    first = rows[0]
    weighted = (first["eval/accuracy/aqua"] * 10 + first["eval/accuracy/sums"] * 6) / 16
    assert first["eval/accuracy"] == pytest.approx(weighted)
    assert first["eval/accuracy/sums"] == 0.0, "a policy of letters answers no number"
    for row in rows[1:]:
        assert row["rl/mean_reward"] == pytest.approx(
            row["rl/mean_reward/aqua"] * 6 / 8 + row["rl/mean_reward/sums"] / 4
        )
    letters = {name.rpartition("/")[2] for row in rows for name in row if "letter" in name}
    assert "sums" not in letters, "there are no letters to probe or to watch among numbers"
    again = both(bench, inputs, tmp_path)
    rl_checkpoint.run(again)
    assert (again.outdir / "model.safetensors").read_bytes() == (ctx.outdir / "model.safetensors").read_bytes()


def test_a_tiny_weight_still_gives_a_question_of_each_step(
    bench: Bench, reading: dict[str, Artifact], sums: Artifact, tmp_path: Path
) -> None:
    tasks = [{"name": "aqua", "weight": 1}, {"name": "sums", "weight": 0.0001}]
    ctx = both(bench, reading | {"chat_datasets": sums}, tmp_path, tasks=tasks, curriculum={"enabled": True})
    rl_checkpoint.run(ctx)
    rows = [json.loads(line) for line in (ctx.extras_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["rl/curriculum_seen/sums"] for row in rows[1:]] == [1, 2, 3]


def test_a_mixture_with_curricula_goes_on_after_a_crash_with_the_same_bytes(
    bench: Bench, reading: dict[str, Artifact], sums: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"steps": 6, "curriculum": {"enabled": True}, "checkpoint": {"every_steps": 2}}
    inputs = reading | {"chat_datasets": sums}
    undisturbed = both(bench, inputs, tmp_path, **changes)
    expected = rl_checkpoint.run(undisturbed)
    work = checkpoint_store(open_backend(f"file://{tmp_path}/work"), "rl_checkpoint", {}, {}, "code")
    whole, crash_at = Trainer.step, list[int]()

    def crash(self: Trainer[Any], step: int, asked: Stopping | None = None) -> Any:
        if step in crash_at:
            raise RuntimeError("a crash")
        return whole(self, step, asked)

    monkeypatch.setattr(Trainer, "step", crash)
    for at in (3, 5):
        crash_at[:] = [at]
        stopped = both(bench, inputs, tmp_path, **changes)
        stopped.work = work
        with pytest.raises(RuntimeError, match="a crash"):
            rl_checkpoint.run(stopped)
    crash_at.clear()
    resumed = both(bench, inputs, tmp_path, **changes)
    resumed.work = work
    found = rl_checkpoint.run(resumed)
    weights = "model.safetensors"
    assert (resumed.outdir / weights).read_bytes() == (undisturbed.outdir / weights).read_bytes()
    timed = {name for name in expected if name.endswith(("_share", "_per_second"))}
    assert {k: v for k, v in found.items() if k not in timed} == {k: v for k, v in expected.items() if k not in timed}
    seen = [
        [row.get("rl/curriculum_seen/sums") for row in map(json.loads, (ctx.extras_dir / "metrics.jsonl").open())]
        for ctx in (undisturbed, resumed)
    ]
    assert seen[0] == seen[1] and len(seen[0]) == 7


def test_a_task_with_fewer_questions_than_its_part_of_a_step_is_refused_at_once(
    bench: Bench, reading: dict[str, Artifact], sums: Artifact, tmp_path: Path
) -> None:
    tasks = [{"name": "aqua", "weight": 1}, {"name": "sums", "weight": 15}]
    ctx = both(
        bench,
        reading | {"chat_datasets": sums},
        tmp_path,
        tasks=tasks,
        prompts_per_step=16,
        curriculum={"enabled": True},
    )
    with pytest.raises(StageError, match="a step asks 15 questions of sums, but there are 12"):
        rl_checkpoint.run(ctx)


def test_settings_of_letters_are_refused_for_numbers(
    bench: Bench, reading: dict[str, Artifact], sums: Artifact, tmp_path: Path
) -> None:
    ctx = both(bench, reading | {"chat_datasets": sums}, tmp_path, reward={"kind": "probability"})
    with pytest.raises(UserError, match="sums"):
        rl_checkpoint.run(ctx)
