"""The tokenizer's bench on a small corpus: every measurement is made, and a result that differs ends it."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from benchmarks import corpus, tokenizer
from benchmarks.harness import BenchError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [file.read_text(encoding="utf-8", errors="replace")[:30_000] for file in files[:60]]
    made = corpus.Corpus(texts[:40], texts[40:], "0" * 64)
    monkeypatch.setattr(corpus, "build", lambda: made)
    for name, value in {"VOCAB": 2_000, "TRAIN_RUNS": 1, "ENCODE_RUNS": 1, "MILLION": 10_000}.items():
        monkeypatch.setattr(tokenizer, name, value)


@pytest.mark.slow
def test_everything_is_measured(small: None) -> None:
    results = {r.name: r for r in tokenizer.run()}
    for name, unit, goal in (
        ("train 32k, 2 threads", "MB/s", "≥ 10"),
        ("train 32k from Parquet, peak memory", "MB", "≤ 416 MB"),
        ("encode a Parquet file to a shard, 2 threads, cold", "MB/s", "≥ 0.8"),
        ("encode to numpy, 1 thread, cold", "MB/s", "≥ 12"),
        ("encode 64 characters to a list", "µs", "≤ 0.125"),
        ("decode arrays", "MB/s", "≥ 6"),
        ("encode 1 MB of random letters", "ms", "≤ 100 ms"),
    ):
        assert (results[name].unit, results[name].goal) == (unit, goal)
        assert results[name].value > 0
    assert results["train 32k, 2 threads"].against.name == "rustbpe"
    assert all(r.runs for r in results.values())


def test_other_merges_end_the_bench(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"seconds": 1.0, "peak_mb": 1.0, "merges": name} for name in ("a", "b")])
    monkeypatch.setattr(tokenizer, "_in_process", lambda trainer, path, pattern: next(answers))
    with pytest.raises(BenchError, match="merges differ"):
        tokenizer.run()
