"""Stages that work shard by shard make the same bytes as in one go, and only what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.artifacts.hashing import digest_file
from aquarat_core.artifacts.store import blob_key
from aquarat_core.config import TokenizerConfig
from aquarat_core.data.documents import read_columns, write_documents
from aquarat_core.data.token_files import write_shard
from aquarat_core.sharding.records import read_shard_record
from aquarat_core.stages import pretrain_tokens, sharded
from aquarat_core.stages import run as runner
from aquarat_core.stages import tokenizer as tokenizer_stage
from aquarat_core.stages.base import StageContext
from aquarat_core.stages.code_version import StageSources, sources
from aquarat_core.stages.sharded import made_shards
from aquarat_core.stages.token_shard import encoded
from aquarat_core.stages.tokenizer import COUNT
from aquarat_core.tasks.word_problems import generate_text
from aquarat_core.text.counting import quotas
from aquarat_core.text.tokenizer import Tokenizer, train_tokenizer
from tests.stages.conftest import Bench

WAYS = ("without a store", "in this process", "in others")


def text_of(bench: Bench, *sizes: int) -> Artifact:
    """A pretrain_text of training files with so many documents, and a file for validation."""
    bench.runs += 1
    folder = bench.scratch / f"text-{bench.runs}"
    folder.mkdir(parents=True)
    listed = []
    for number, size in enumerate([*sizes, 20]):
        texts = generate_text(size, seed=number, max_level=1)
        name = f"train-{number:05d}.parquet" if number < len(sizes) else "validation.parquet"
        write_documents(folder / name, texts)
        listed.append({"file": name, "text_bytes": sum(len(text.encode()) for text in texts)})
    (folder / "shards.json").write_text(json.dumps(listed))
    return bench.publish("pretrain_text", folder)


def run(bench: Bench, way: str, stage: Callable[[StageContext], dict], ctx: StageContext) -> dict[str, str]:
    """The hashes of what a stage publishes, made in one of three ways."""
    with pytest.MonkeyPatch.context() as patch:
        if way != "without a store":
            ctx.shards = bench.store
        if way == "in others":
            patch.setattr(sharded, "SMALL", 0)
        metrics = stage(ctx)
    made = bench.store.publish(
        asset=ctx.spec.stage, kind="dataset", directory=ctx.outdir, config={}, profile="unit", code=ctx.spec.code,
        parents=(), metrics=metrics, seeds={}, run_id="run", stored=ctx.stored,
    )  # fmt: skip
    assert bool(ctx.stored) == (way != "without a store" and ctx.spec.stage != "tokenizer")
    assert made.is_complete()
    return {f.path: f.sha256 for f in made.manifest.files}


def shards_of(bench: Bench, stage: str) -> set[str]:
    return set(bench.store.backend.keys(f"shards/{stage}/"))


def forget(bench: Bench) -> None:
    for key in list(bench.store.backend.keys("shards/")):
        bench.store.backend.delete(key)


def texts_in(artifact: Artifact) -> list[str]:
    files = sorted(f.path for f in artifact.manifest.files if f.path.startswith("train-"))
    return [text for file in files for column in read_columns(artifact.path(file)) for text in column.to_pylist()]


def published(bench: Bench, tokenizer: Tokenizer) -> Artifact:
    bench.runs += 1
    folder = bench.scratch / f"tokenizer-{bench.runs}"
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer.json")
    return bench.publish("tokenizer", folder)


def tokenizer_context(bench: Bench, data: dict[str, Artifact], text: Artifact, **config: object) -> StageContext:
    inputs = data | {"pretrain_text": text}
    return bench.context("tokenizer", {"vocab_size": 400, **config}, **inputs)


@pytest.mark.parametrize("sizes", [(300,), (200, 60, 90)], ids=["one shard", "three shards"])
def test_tokens_are_those_of_one_go(bench: Bench, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    text = text_of(bench, *sizes)
    tokenizer = train_tokenizer(texts_in(text), TokenizerConfig(vocab_size=400))
    made = published(bench, tokenizer)
    found = []
    for way in WAYS:
        forget(bench)
        ctx = bench.context("pretrain_tokens", None, pretrain_text=text, tokenizer=made)
        found.append(run(bench, way, pretrain_tokens.run, ctx))
    assert found[0] == found[1] == found[2] and len(found[0]) == 2 * len(sizes) + 3
    for number in range(len(sizes)):
        source = text.path(f"train-{number:05d}.parquet")
        whole = write_shard(tmp_path / "whole.bin", encoded(source, tokenizer, 1), tokenizer.vocab_size)
        ids = np.fromfile(tmp_path / "whole.bin", "<u2")
        assert whole.tokens == len(ids)
        assert digest_file(tmp_path / "whole.bin").sha256 == found[0][f"train-{number:05d}.bin"]


@pytest.mark.parametrize("sizes", [(300,), (200, 60, 90)], ids=["one shard", "three shards"])
def test_a_tokenizer_of_everything_is_that_of_one_go(
    bench: Bench, data: dict[str, Artifact], sizes: tuple[int, ...]
) -> None:
    text = text_of(bench, *sizes)
    found = []
    for way in WAYS:
        forget(bench)
        found.append(run(bench, way, tokenizer_stage.run, tokenizer_context(bench, data, text)))
    assert found[0] == found[1] == found[2]
    assert found[0] == in_one_go(bench, data, text)


@pytest.mark.parametrize("max_chars", [9_000, 20_000])
def test_a_budget_that_one_shard_exceeds_takes_its_beginning(
    bench: Bench, data: dict[str, Artifact], max_chars: int
) -> None:
    """With one shard, the budget means what it meant before there were shards."""
    text = text_of(bench, 300)
    made = run(bench, WAYS[1], tokenizer_stage.run, tokenizer_context(bench, data, text, max_chars=max_chars))
    assert made == in_one_go(bench, data, text, max_chars=max_chars)
    assert made != in_one_go(bench, data, text)


def in_one_go(bench: Bench, data: dict[str, Artifact], text: Artifact, **config: object) -> dict[str, str]:
    """The hash of the tokenizer of all sources, read as a single stream."""
    ctx = tokenizer_context(bench, data, text, **config)
    stream = [*tokenizer_stage._small_sources(ctx), *texts_in(text)]
    train_tokenizer(stream, ctx.config).save(ctx.outdir / "tokenizer.json")
    return {"tokenizer.json": digest_file(ctx.outdir / "tokenizer.json").sha256}


def test_a_budget_is_shared_by_the_shards(bench: Bench, data: dict[str, Artifact]) -> None:
    assert quotas([10, 10, 10], 100) == [None] * 3
    assert quotas([50], 20) == [20] and quotas([50], 50) == [None] and quotas([50], 0) == [0]
    assert quotas([50, 4, 30], 40) == [18, None, 18]
    assert quotas([50, 4, 17], 40) == [19, None, None]
    assert quotas([], 5) == []
    forget(bench)
    text = text_of(bench, 200, 60, 90)
    small = sum(map(len, tokenizer_stage._small_sources(tokenizer_context(bench, data, text))))
    ctx = tokenizer_context(bench, data, text, max_chars=small + 9_001)
    run(bench, WAYS[1], tokenizer_stage.run, ctx)
    records = [json.loads(bench.store.backend.read(key).data) for key in shards_of(bench, "tokenizer")]
    counted = sorted(record["counts"]["characters"] for record in records)
    assert counted == [3_000, 3_000, 3_000], "each shard is longer than its share"


def test_only_what_a_change_concerns_is_made_again(bench: Bench, data: dict[str, Artifact]) -> None:
    forget(bench)
    text, more = text_of(bench, 100, 50), text_of(bench, 100, 50, 70)

    def count(of: Artifact, **config: object) -> int:
        before = shards_of(bench, "tokenizer")
        run(bench, WAYS[1], tokenizer_stage.run, tokenizer_context(bench, data, of, **config))
        return len(shards_of(bench, "tokenizer") - before)

    def encode(of: Artifact, tokenizer: Artifact) -> int:
        before = shards_of(bench, "pretrain_tokens")
        ctx = bench.context("pretrain_tokens", None, pretrain_text=of, tokenizer=tokenizer)
        run(bench, WAYS[1], pretrain_tokens.run, ctx)
        return len(shards_of(bench, "pretrain_tokens") - before)

    made = published(bench, train_tokenizer(texts_in(text), TokenizerConfig(vocab_size=400)))
    assert (count(text), encode(text, made)) == (2, 3)
    assert (count(text), encode(text, made)) == (0, 0), "nothing is made again"
    assert count(text, vocab_size=350) == 0, "the vocabulary is learned from the same counts"
    assert count(text, max_chars_per_document=30) == 2 and encode(text, made) == 0
    assert (count(more), encode(more, made)) == (1, 2), "the shard that was added, and its other file for validation"
    other = published(bench, train_tokenizer(texts_in(text), TokenizerConfig(vocab_size=350)))
    assert (count(text), encode(text, other)) == (0, 3)


def test_the_version_of_a_shard_function_covers_what_it_computes_with(tmp_path: Path) -> None:
    for folder in ("aquarat_core", "rust/src"):
        shutil.copytree(sources().root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))

    def version(file: str = "", added: str = "") -> str:
        if file:
            path = tmp_path / file
            path.write_text(path.read_text() + added)
        return StageSources(tmp_path).function_version(COUNT)

    here = version()
    assert here == sources().function_version(COUNT)
    for file in ("sharding/driver.py", "stages/tokenizer.py", "stages/sharded.py", "artifacts/store.py"):
        assert version(f"aquarat_core/{file}", "\nMORE = 1\n") == here, file
    assert version("aquarat_core/text/counting.py", "\n# a comment\n") == here
    seen = {here}
    for file in ("aquarat_core/text/counting.py", "aquarat_core/stages/count_shard.py"):
        seen.add(version(file, "\nMORE = 1\n"))
    seen.add(version("rust/src/lib.rs", "\n// more\n"))
    assert len(seen) == 4


def test_a_file_that_is_damaged_after_its_shard_was_made_is_not_read(bench: Bench, data: dict[str, Artifact]) -> None:
    forget(bench)
    ctx = tokenizer_context(bench, data, text_of(bench, 20))
    ctx.shards = bench.store
    (made,) = made_shards(ctx, tokenizer_stage._shards(ctx, 1_000))
    (key,) = shards_of(bench, "tokenizer")
    (file,) = read_shard_record(bench.store.backend.read(key).data, key).files
    assert made.number("characters") == 1_000 and len(made.read(file.path)) == file.size
    bench.store.backend.write(blob_key(file.digest), b"damaged")
    with pytest.raises(ArtifactError, match=f"{file.path}, which this stage has made and needs, is missing or damaged"):
        made.read(file.path)


@pytest.mark.parametrize("way", WAYS[:2])
def test_where_there_is_no_shard_nothing_is_said(bench: Bench, data: dict[str, Artifact], way: str) -> None:
    ctx = tokenizer_context(bench, data, text_of(bench, 20))
    ctx.shards = None if way == WAYS[0] else bench.store
    said: list[dict] = []
    ctx.send = said.append
    assert list(made_shards(ctx, [])) == [] and said == []


def test_small_shards_start_no_processes(bench: Bench, data: dict[str, Artifact]) -> None:
    """The demo's stages must not become slower."""
    forget(bench)
    ctx = tokenizer_context(bench, data, text_of(bench, 50, 50))

    def refuse(*_: object) -> None:
        raise AssertionError("a process was started")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subprocess.Popen.__init__", refuse)
        run(bench, WAYS[1], tokenizer_stage.run, ctx)
    assert len(shards_of(bench, "tokenizer")) == 2


def test_the_stage_runner_publishes_the_shards_where_they_are(bench: Bench) -> None:
    forget(bench)
    text = text_of(bench, 40, 30)
    tokenizer = published(bench, train_tokenizer(texts_in(text), TokenizerConfig(vocab_size=400)))
    inputs = {"pretrain_text": text, "tokenizer": tokenizer}
    alone = run(bench, WAYS[0], pretrain_tokens.run, bench.context("pretrain_tokens", None, **inputs))
    spec = bench.spec("pretrain_tokens", None, **inputs)
    job = bench.store.job("run-1", "pretrain_tokens", 1)
    result = runner.run(job, spec)
    made = bench.store.get(result["manifest_sha256"])
    assert {f.path: f.sha256 for f in made.manifest.files} == alone and made.is_complete()
    assert [p.asset for p in made.manifest.parents] == list(inputs)
    assert len(shards_of(bench, "pretrain_tokens")) == 3
    assert runner.run(job, spec)["data_version"] == made.data_version
