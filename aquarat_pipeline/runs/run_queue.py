"""The run queue: Dagster's own, except that its limit counts workers, which take memory, not runs.

A parked run has no worker, and takes no place. So a burst of launches starts as many workers as there are places, and
each run that is parked lets the next one in.
"""

from __future__ import annotations

from pathlib import Path

from aquarat_pipeline._compat import QueuedRunCoordinator, RunQueueConfig
from aquarat_pipeline.workers import parked_runs

UNLIMITED = -1


class RunQueue(QueuedRunCoordinator):
    """Named in `dagster.yaml`; takes what Dagster's `run_queue` takes."""

    def get_run_queue_config(self) -> RunQueueConfig:
        """The daemon asks before each look at the queue, and subtracts all runs in progress from the limit."""
        config = super().get_run_queue_config()
        if config.max_concurrent_runs == UNLIMITED:
            return config
        parked = len(parked_runs(Path(self._instance.root_directory)))
        return config._replace(max_concurrent_runs=config.max_concurrent_runs + parked)
