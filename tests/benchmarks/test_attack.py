"""The bench of hostile files finds what it looks for, and the product's readers stand a small share of it."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from benchmarks import attack
from benchmarks.hostile import formats, worker
from benchmarks.hostile.formats import FORMATS, Format

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", FORMATS)
def test_every_reader_stands_some_of_it(name: str, tmp_path: Path) -> None:
    found = attack.Found()
    attack._attack(name, 60, tmp_path / name, found)
    assert found.violations == [] and found.outcomes.total() == 60
    assert found.outcomes["refused"] or name in ("lease", "ticket")


def outcome(read) -> tuple[str, str]:
    return worker._outcome(Format([b"{}"], read), b"{}")


def test_an_error_of_a_library_is_a_violation() -> None:
    assert outcome(lambda data: 1) == ("value", "")
    assert outcome(lambda data: {}["x"])[0] == "violation"
    assert outcome(lambda data: json.loads("{"))[0] == "violation", "a JSONDecodeError is a ValueError by chance"
    assert outcome(lambda data: int("x"))[0] == "violation"


def test_what_hangs_is_interrupted_and_a_wrong_value_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SLOW_SECONDS", 1)
    monkeypatch.setattr(worker.signal, "SIGALRM", worker.signal.SIGALRM)
    before = worker.signal.signal(worker.signal.SIGALRM, worker._give_up)
    try:
        assert outcome(lambda data: time.sleep(60)) == ("violation", "not done in 1 s")
    finally:
        worker.signal.signal(worker.signal.SIGALRM, before)

    def check(value: object, data: bytes) -> None:
        assert value == 2, "it is another value"

    assert worker._outcome(Format([b""], lambda data: 1, check=check), b"") == (
        "violation",
        "AssertionError: it is another value\nassert 1 == 2",
    )


def test_slow_and_large_inputs_are_violations() -> None:
    found = attack.Found()
    for seconds, mib in ((0.1, 1.0), (1.5, 1.0), (0.1, 300.0)):
        found.add("x", {"read": 1, "outcome": "value", "why": "", "seconds": seconds, "mib": mib})
    assert found.violations == ["x 1: 1.5 s", "x 1: 300 MiB"]
    assert found.outcomes == {"value": 1, "violation": 2}


def test_mutations_follow_the_seed() -> None:
    form = Format([b'{"a": [1, 2, {"b": "c"}]}'], lambda data: data, [formats.mutate_json])
    first = [form.mutate(random.Random(f"x {n}")) for n in range(50)]
    assert first == [form.mutate(random.Random(f"x {n}")) for n in range(50)]
    assert len(set(first)) > 30
