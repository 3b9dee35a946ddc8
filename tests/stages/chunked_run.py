"""Runs a stage on token shards in small chunks: `chunked_run.py SPEC FACTS STEP SIGNAL`.

The process sends itself SIGNAL after step STEP. FACTS then says what the cache has held; it is written at every fetch.
Under torchrun, each rank does this, and FACTS has its number at the end of its name.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import cache
from aquarat_core.artifacts.manifest import FileEntry
from aquarat_core.data import rows, token_plans
from aquarat_core.settings import cache_dir, cache_limit
from aquarat_core.stages import run
from aquarat_core.stages.base import StageContext

CHUNK_TOKENS, WINDOW = 4_000, 3
facts: dict[str, Any] = {"fetched": [], "most": 0, "over": 0}


def watch_cache(path: Path) -> None:
    """Note in a file what was fetched, the most bytes in the cache, and the most above both its limit and what is in
    use."""
    fetch_blob = cache.Cache._blob

    def watched(self: cache.Cache, entry: FileEntry, fetch: cache.Fetch) -> Path:
        def counted(target: Path, have: int) -> None:
            facts["fetched"].append(entry.path)
            fetch(target, have)

        blob = fetch_blob(self, entry, counted)
        sizes = {p.name: p.stat().st_size for p in (cache_dir() / "blobs").glob("*/*")}
        used = cache._in_use(cache_dir() / "users")
        held, in_use = sum(sizes.values()), sum(sizes[name] for name in sizes if name in used)
        facts["most"] = max(facts["most"], held)
        facts["over"] = max(facts["over"], held - max(cache_limit(), in_use))
        path.write_text(json.dumps(facts))
        return blob

    cache.Cache._blob = watched  # type: ignore[method-assign]


def send_after(step: int, number: int) -> None:
    report = StageContext.progress

    def progress(self: StageContext, done: int, total: int, unit: str = "steps", **metrics: float) -> None:
        report(self, done, total, unit, **metrics)
        if unit == "steps" and done == step:
            os.kill(os.getpid(), number)

    StageContext.progress = progress  # type: ignore[method-assign]


if __name__ == "__main__":
    token_plans.CHUNK_TOKENS, rows.WINDOW = CHUNK_TOKENS, WINDOW
    watch_cache(Path(f"{sys.argv[2]}{os.environ.get('RANK', '')}"))
    send_after(int(sys.argv[3]), int(sys.argv[4]))
    sys.exit(run.main(sys.argv[1]))
