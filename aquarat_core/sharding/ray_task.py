"""What runs on the hosts of a Ray cluster: one shard, from JSON to JSON."""

from __future__ import annotations

import json
import socket

from aquarat_core.errors import StageError
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.sharding.making import attempt, failed
from aquarat_core.sharding.version import project_version


def make_shard(text: str) -> str:
    """Makes the shard of a task, with one thread; returns how it ended (`Ended.to_line`).

    A host with other sources than the task's sender makes nothing.
    """
    task = json.loads(text)
    try:
        _check_version(task["version"])
        with scratch_folder("shards") as folder:
            ended = attempt(task["attempt"], task, folder / "shard", 1)
    except Exception as e:
        ended = failed(task["attempt"], e)
    return ended.to_line().decode()


def _check_version(wanted: str) -> None:
    if (here := project_version()) != wanted:
        raise StageError(
            f"the Ray host {socket.gethostname()} has another version of aquarat ({here}) than the stage ({wanted}): "
            "bring the stage's checkout to every host of the cluster and set it up there, then start the stage again"
        )
