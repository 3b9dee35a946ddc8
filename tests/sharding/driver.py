"""A driver in a process of its own, for tests that end it: `python -m tests.sharding.driver STORE LOG SHARDS PAUSE`.

Shards are made by the Ray cluster that `AQUARAT_RAY_ADDRESS` names, if it does. Prints a line for each shard that is
there, and at the end the hash of the artifact that it publishes.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.settings import ray_address
from aquarat_core.sharding.driver import Patience, make_shards
from aquarat_core.sharding.processes import Processes
from aquarat_core.sharding.ray_cluster import RayCluster
from aquarat_core.sharding.records import ShardStore
from tests.sharding.toys import spec


def main(uri: str, log: str, shards: str, pause: str, function: str = "digits") -> None:
    # A test that runs in the background of a shell has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    store = ArtifactStore.open(uri)
    place = ShardStore(store, "toy")
    wanted = [spec(n, Path(log), function, pause=float(pause)) for n in range(int(shards))]
    records = make_shards(
        wanted,
        place,
        lambda missing: RayCluster(place, address, 2) if (address := ray_address()) else Processes(place, 2),
        patience=Patience(first_pause=0.01),
        progress=lambda done, total: print(f"{done}/{total}", flush=True),
        log=lambda text: print(text, file=sys.stderr),
    )
    artifact = store.publish(
        asset="toy", kind="dataset", directory=Path(log).parent / "content", config={}, profile="unit",
        code=CodeVersion(version="1" * 64), parents=(), metrics={}, seeds={}, run_id="run",
        stored=[r.file("digits").model_copy(update={"path": f"{i:05d}.bin"}) for i, r in enumerate(records)],
    )  # fmt: skip
    print(artifact.data_version, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
