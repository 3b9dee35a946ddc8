"""Makes one shard: runs its function in an empty folder, and stores files and record."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aquarat_core.errors import UserError
from aquarat_core.sharding.executor import Ended
from aquarat_core.sharding.records import DisputedError, ShardRecord, ShardStore
from aquarat_core.sharding.spec import Work, function_of, store_at, work_of


def make(shards: ShardStore, key: str, name: str, function: str, work: Work) -> ShardRecord:
    """Runs the function and stores what it made. Raises `DisputedError`, and whatever the function raises."""
    started = time.monotonic()
    counts = function_of(function)(work)
    return shards.add(key, name, work.folder, counts, time.monotonic() - started)


def attempt(number: int, task: Mapping[str, Any], folder: Path, threads: int | None) -> Ended:
    """Makes the shard of a task below `folder`, unless another process has stored it meanwhile."""
    try:
        shards = ShardStore(store_at(task["store"]), task["stage"])
        record = shards.find_one(task["key"])
        if record is None:
            folder.mkdir()
            record = make(shards, task["key"], task["name"], task["function"], work_of(task, folder, threads))
        return Ended(number, record)
    except Exception as e:
        return failed(number, e)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def failed(number: int, error: Exception) -> Ended:
    """An attempt that ended with an exception."""
    user = isinstance(error, UserError)
    said = str(error) if user else "".join(traceback.format_exception(error))
    why = "disputed" if isinstance(error, DisputedError) else "user" if user else "fault"
    return Ended(number, None, said, why, type(error).__name__)
