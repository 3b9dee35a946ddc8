"""A driver that is killed at seeded points, and started again each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.patience import limit
from tests.sharding.test_driver import run_driver
from tests.sharding.toys import calls

SHARDS, WORKERS = 24, 2
POINTS = {"processes": 20, "ray": 4}
"""A connection to a Ray cluster takes seconds."""


@pytest.mark.slow
def test_killed_at_any_point_the_artifact_is_the_same_and_only_shards_in_flight_are_made_again(
    store_uri: str, tmp_path: Path, where: str
) -> None:
    undisturbed, disturbed = tmp_path / "a" / "log", tmp_path / "b" / "log"
    for log in (undisturbed, disturbed):
        log.mkdir(parents=True)
    whole = run_driver(f"{store_uri}-undisturbed", undisturbed, SHARDS, 0)
    expected = whole.communicate(timeout=limit(60))[0].splitlines()[-1]
    points = sorted(random.Random(22).choices(range(SHARDS), k=POINTS[where]))
    for point in points:
        driver = run_driver(store_uri, disturbed, SHARDS, 0.02)
        for line in driver.stdout:
            if "/" in line and int(line.partition("/")[0]) >= point:
                break
        driver.kill()
        driver.communicate()
    last = run_driver(store_uri, disturbed, SHARDS, 0)
    assert last.communicate(timeout=limit(60))[0].splitlines()[-1] == expected
    made = calls(disturbed)
    assert set(made) == set(range(SHARDS))
    assert len(made) - SHARDS <= WORKERS * len(points), "each time, as many as were in flight"
