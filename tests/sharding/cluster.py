"""A Ray cluster of one host with four CPUs: `python -m tests.sharding.cluster FOLDER`.

Prints its address, and ends when standard input does. FOLDER has a short path, for Ray's sockets.
"""

from __future__ import annotations

import os
import sys


def main(folder: str) -> None:
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        import ray

        for tries in range(3):
            try:
                ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=128 << 20, _temp_dir=folder)
                break
            except Exception:
                # Ray gives its own processes 30 s, which a busy machine may not have.
                if tries == 2:
                    raise
                ray.shutdown()
        print(ray.get_runtime_context().gcs_address, file=replies, flush=True)
        sys.stdin.read()
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
