"""Decides which of several runs makes an asset's latest result. Imports little, because every process loads it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from aquarat_pipeline.locks import waited_for

PAGE = 100


@contextmanager
def sole_publisher(home: Path, asset: str) -> Generator[None]:
    """Lock for moving an asset's ref and recording its materialization, so that the same run comes last in both."""
    path = home / "aquarat" / "publishing" / f"{asset}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with waited_for(path):
        yield


def overtaken_by(instance: dg.DagsterInstance, run_id: str, assets: Iterable[str]) -> str | None:
    """A newer run that has materialized one of the assets, as a clause for a message; None if there is none."""
    record = instance.get_run_record_by_id(run_id)
    if record is None:
        return None
    began = record.create_timestamp
    for name in sorted(assets):
        wanted = dg.AssetRecordsFilter(dg.AssetKey.from_user_string(name), after_timestamp=began.timestamp())
        others = {event.run_id for event in instance.fetch_materializations(wanted, limit=PAGE).records} - {run_id}
        if "" in others:  # reported outside of any run
            return f"another {name}, which was adopted since, is the latest"
        if not others:
            continue
        newer = dg.RunsFilter(run_ids=list(others), created_after=began)
        if later := instance.get_run_records(newer, limit=1):
            return f"run {later[0].dagster_run.run_id[:8]}, which is newer, has materialized {name} since"
    return None
