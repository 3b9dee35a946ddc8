"""For torchrun: `first_of_host.py FOLDER` leaves what `once_per_host` gave on two ranks in FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from aquarat_core.config import LaunchConfig
from aquarat_core.errors import DataError
from aquarat_core.runtime.distributed import World, distributed_world


def attempt(world: World, folder: Path, what: str) -> list[str]:
    """The type and text of what `once_per_host` raised or returned."""

    def make() -> Any:
        with (folder / "calls").open("a") as calls:
            calls.write(f"{what} {world.rank}\n")
        if what == "mistake":
            raise DataError("row 7 has no answer: mend it")
        if what == "fault":
            raise KeyError("index")
        return {"folder": "ü", "share": 0.1 + 0.2}

    try:
        found = world.once_per_host(make)
    except Exception as e:
        return [type(e).__name__, str(e)]
    return ["value", json.dumps(found)]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    with distributed_world(LaunchConfig(device="cpu", dtype="float32", threads=1)) as joined:
        seen = {what: joined.gather_to_rank0([attempt(joined, out, what)]) for what in ("value", "mistake", "fault")}
        if joined.rank == 0:
            (out / "seen.json").write_text(json.dumps(seen))
