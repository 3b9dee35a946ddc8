"""Every failure that clouds are known for, kills, and sequences by chance, in a short form.

`./run bench renting` plays all cases on all providers, kills the keeper at every point, and runs hundreds of sequences.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from aquarat_pipeline.renting import ledger as ledger_module
from aquarat_pipeline.renting.ledger import Ledger
from tests.renting.faults import accounts, asking, ending, hosts, looking  # noqa: F401  (they list their cases)
from tests.renting.faults.control_host import KINDS
from tests.renting.faults.kills import ANSWERS, killed_everywhere
from tests.renting.faults.many import LIFE, fill
from tests.renting.faults.processes import POINTS, killed_in_requests
from tests.renting.faults.stage import CASES, Case, play, short, staged
from tests.renting.faults.walks import walk


@pytest.mark.parametrize("one", short(), ids=str)
def test_fault(one: Case, tmp_path: Path) -> None:
    play(one, tmp_path)


def test_every_row_has_a_case() -> None:
    assert {row for one in CASES for row in one.rows} == set(range(1, 37))


@pytest.mark.parametrize("kind", KINDS)
def test_few_requests_when_nothing_changes(kind: str, tmp_path: Path) -> None:
    with staged(kind, tmp_path) as stage:
        chain = stage.chain()
        chain.order(hours=3)
        chain.until("ready")
        chain.fake.requests.clear()
        began = chain.clock.now()
        chain.run(lambda: chain.clock.now() >= began + 3600)
        # A list each minute, and of a prepaid account the balance.
        assert len(chain.fake.requests) <= (122 if kind == "hyperbolic" else 61)


def test_a_ledger_of_many_rentals_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn looks at each rental's newest file only; `./run bench renting` measures how long the first look takes."""
    book = Ledger(tmp_path)
    fill(book, 20)
    read: list[object] = []
    kept = ledger_module._read
    monkeypatch.setattr(ledger_module, "_read", lambda path: read.append(path) or kept(path))
    other = Ledger(tmp_path)
    assert len(other.load().rentals) == 20 and len(read) == 20 * (1 + len(LIFE))
    assert len(other.load().rentals) == 20 and len(read) == 20 * (1 + len(LIFE))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "answer"), zip(KINDS, ANSWERS, strict=True))
def test_killed_at_some_points(kind: str, answer: str | None, tmp_path: Path) -> None:
    """Around the order closely, and then here and there."""
    points = [*range(3, 12), 15, 20, 26, 33, 41]
    assert len(killed_everywhere(kind, answer, tmp_path, points)) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_sequence_by_chance(seed: int, tmp_path: Path) -> None:
    walk(seed, tmp_path, steps=60)


@pytest.mark.slow
def test_real_keepers_are_killed_in_requests(tmp_path: Path) -> None:
    points = tuple(one for one in POINTS if one[0] in ("rent", "terminate") and one[1] == "after")
    assert killed_in_requests(tmp_path, points) == len(points)
