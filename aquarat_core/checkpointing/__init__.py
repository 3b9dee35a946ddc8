"""Saves unfinished training in the store's `work/`, so that a killed stage can continue.

A checkpoint is a set of named objects, each with `state_dict` and `load_state_dict` over tensors and JSON values. Every
rank copies its tensors to host memory, a thread writes them while training continues, and `commit.json`, written last,
names every file with its size and digest. Files that no commit names are ignored, so a kill costs at most the steps
since the last commit. `training/session.py` uses it like this:

    replicated = {"model": model, "progress": progress}         # equal on all ranks: rank 0 writes them
    sharded = {"updater": optimizer}                            # each rank writes what it owns; merged when read
    with Checkpointer(ctx.work, config.checkpoint, world, replicated, sharded, ctx.log) as checkpointer:
        done = checkpointer.restore()                           # steps already done; 0 for a fresh start
        for step in range(done, config.steps):
            ...                                                 # all randomness is a function of (seed, step)
            checkpointer.after_step(step + 1)                   # saves when due; on SIGTERM raises `Preempted`

Names are part of the format: renaming one makes older checkpoints unreadable, unless the object lists the old name in
`former_names`. The number of ranks is not part of the state: one rank can read what two wrote. `CheckpointStore.clear`
removes all checkpoints once the result is published.
"""

from aquarat_core.checkpointing.checkpointer import Checkpointer, Stateful, previous_wandb_id
from aquarat_core.checkpointing.store import CheckpointStore, checkpoint_store
from aquarat_core.runtime.preemption import Preempted

__all__ = ["CheckpointStore", "Checkpointer", "Preempted", "Stateful", "checkpoint_store", "previous_wandb_id"]
