"""What a stage needs to be killed anywhere and go on: its state in the store's `work/` area, and how it gets there.

A checkpoint is a set of named parts, each with `state_dict` and `load_state_dict` over tensors and JSON values. Every
rank copies its tensors to host memory, a thread writes them while training goes on, and `commit.json`, written last,
names every file with its size and digest. What no commit names was never written, so a kill costs at most the steps
since the last commit. A stage uses it like this:

    parts = {"model": model, "progress": progress}              # equal on all ranks: rank 0 writes them
    shards = {"optimizer": updater}                             # each rank writes what it owns; merged when read
    with Checkpointer(ctx.work, config.checkpoint, world, parts, shards, ctx.log) as checkpointer:
        first = checkpointer.restore()                          # steps already done; 0 for a fresh start
        for step in range(first, config.steps):
            ...                                                 # everything random is a function of (seed, step)
            checkpointer.after_step(step + 1)                   # saves when due; on SIGTERM saves and raises `Stopped`

The number of ranks is no part of the state: what two ranks wrote, one can read. `WorkArea.clear` ends an area, once
what it led to is published.
"""

from aquarat_core.checkpointing.area import WorkArea, work_area
from aquarat_core.checkpointing.checkpointer import Checkpointer, Part, continued_run
from aquarat_core.runtime.stopped import Stopped

__all__ = ["Checkpointer", "Part", "Stopped", "WorkArea", "continued_run", "work_area"]
