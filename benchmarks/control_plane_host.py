"""The control host of `control_plane`: the real daemon, follower and allocator take turns in virtual time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from aquarat_pipeline.hosts.allocator import Allocator, SharedAllocator
from aquarat_pipeline.hosts.watching import Watcher
from aquarat_pipeline.runs.follower import Follower
from aquarat_pipeline.runs.launcher import GpuRunLauncher
from benchmarks.control_plane_world import MONITOR_SECONDS, Inline, World

TICK = 0.5
"""Virtual seconds between two turns of the follower."""


class TimedAllocator(SharedAllocator):
    """The allocator in the world's time; its CPU time is placement."""

    def __init__(self, world: World) -> None:
        super().__init__(world.home)
        self._world = world
        self._allocator = Allocator(world.home, world.now, Watcher(world.now))

    def turn(self) -> None:
        decided, began = self._allocator.decisions, time.process_time()
        self._allocator.turn()
        # Looking whether anything has happened is no placement: it costs the same however many jobs are started.
        what = "polling" if self._allocator.decisions == decided else "placement"
        self._world.cpu.seconds[what] += time.process_time() - began

    def close(self) -> None:
        self._allocator.close()


class ControlHost:
    """Daemon and follower, which take their turns while virtual time passes."""

    def __init__(self, world: World, context: Any) -> None:
        launcher = world.instance.run_launcher
        assert isinstance(launcher, GpuRunLauncher)
        self._world, self._context = world, context
        self._queue = QueuedRunCoordinatorDaemon(interval_seconds=1)
        self.follower = Follower(
            world.instance, launcher.wake, launcher.end_cancelled, max_workers=world.workers, now=world.now,
            allocator=TimedAllocator(world), pool=Inline(),
        )  # fmt: skip
        self._monitored = 0.0
        self._log = logging.getLogger("control-plane")

    def dequeue(self) -> None:
        with self._world.cpu.of("dequeue"):
            for _ in self._queue.run_iteration(self._context):
                pass

    def run(self, until: Callable[[], bool], at_most: float = 36_000.0) -> float:
        """Lets virtual time pass; returns how much did."""
        world, began = self._world, self._world.seconds
        while not until():
            if world.seconds - began > at_most:
                raise RuntimeError(
                    f"after {at_most:.0f} virtual seconds: {len(world.order)} of {len(world.runs)} began"
                )
            world.advance(TICK)
            before = self._allocating()
            with world.cpu.of("follower"):
                self.follower.turn()
            world.cpu.seconds["follower"] -= self._allocating() - before
            if world.seconds - self._monitored >= MONITOR_SECONDS:
                self._monitored = world.seconds
                with world.cpu.of("monitoring"):
                    for _ in execute_run_monitoring_iteration(self._context, self._log):
                        pass
        return world.seconds - began

    def _allocating(self) -> float:
        return self._world.cpu.seconds["placement"] + self._world.cpu.seconds["polling"]

    def close(self) -> None:
        self.follower.close()
        self._queue.__exit__(None, None, None)
