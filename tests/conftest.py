"""What every test may use: an empty store and cache, a Dagster instance of its own, and the shared real data if any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import dagster

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real rows beside the checkout; tests that ask for it are skipped where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("there is no ../shared here")
    return folder


@pytest.fixture
def store_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an empty store that `AQUARAT_STORE` names, with a cache of its own."""
    uri = f"file://{tmp_path}/store"
    monkeypatch.setenv("AQUARAT_STORE", uri)
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    return uri


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dagster.DagsterInstance]:
    """A lasting Dagster instance in a directory of its own, which `DAGSTER_HOME` names meanwhile."""
    import dagster as dg

    home = tmp_path / "dagster_home"
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home), overrides={"python_logs": {"python_log_level": "INFO"}}) as made:
        yield made
