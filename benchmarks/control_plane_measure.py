"""One size of `control_plane`: the real control plane, with hosts, supervisors and workers that are simulated.

Real: the instance and its database, the queue, the daemon's dequeuing and monitoring, the run launcher's decisions, the
follower, the allocator, tickets, attempts, the requests to hosts and the leases on them.
"""

from __future__ import annotations

import json
import logging
import os
import resource
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import EmptyWorkspaceTarget

from aquarat_core.artifacts.memory import MemoryBackend
from aquarat_pipeline.hosts import agent
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.locks import held
from aquarat_pipeline.runs.follower_start import lock_of
from aquarat_pipeline.workers import parked_runs
from benchmarks.control_plane_host import ControlHost
from benchmarks.control_plane_world import HOLD_SECONDS, Run, Transport, World


def count_operations(world: World) -> None:
    """Counts what the control plane asks of the store; what hosts write is not counted."""
    for name in ("read", "write", "create", "swap", "keys", "stats", "delete", "size"):
        inner = getattr(MemoryBackend, name)

        def counted(self: Any, *args: Any, _name: str = name, _inner: Any = inner, **kwargs: Any) -> Any:
            if world.counting:
                world.ops[_name] += 1
            return _inner(self, *args, **kwargs)

        setattr(MemoryBackend, name, counted)


def measure(home: Path, size: int, workers: int) -> dict[str, Any]:
    """First `size` runs wait for a tenth as many hosts; then there are as many hosts as runs, and all jobs run."""
    world = World(home, size, workers)
    count_operations(world)

    def transport_to(host: Host) -> Transport:
        return Transport(world, host)

    agent.transport_to = transport_to
    extra, few = max(10, size // 10), max(1, size // 20)
    world.write_hosts(few)
    with ExitStack() as stack:
        path = lock_of(home)
        path.parent.mkdir(parents=True)
        stack.enter_context(held(path, "the bench"))
        context = stack.enter_context(create_test_daemon_workspace_context(EmptyWorkspaceTarget(), world.instance))
        host = ControlHost(world, context)
        stack.callback(host.close)
        world.create_runs(size + extra)
        host.dequeue()
        waiting = lambda: len(parked_runs(home)) >= len(world.runs) - few  # noqa: E731
        host.run(lambda: len(world.order) >= few and waiting())
        line = _part(world, host, lambda: len(world.order) >= few + extra)
        overtaken = _most_overtaken(world.order)
        world.holding = True
        world.write_hosts(size)
        host.run(lambda: len(world.order) == len(world.runs))
        end = world.seconds + HOLD_SECONDS
        hold = _part(world, host, lambda: world.seconds >= end)
        running = sum(run.began is not None and not run.over for run in world.runs.values())
    waits = [run.began - run.queued for run in world.order if run.began is not None and run.began > run.queued]
    return {
        "runs": len(world.runs), "running": running, "line": line, "hold": hold, "idle": world.idle,
        "waits": (min(waits), max(waits)), "overtaken": overtaken, "wrong": world.wrong, "refused": world.refused,
        "dequeue_cpu": world.cpu.seconds["dequeue"] / len(world.runs),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


def _part(world: World, host: ControlHost, until: Callable[[], bool]) -> dict[str, Any]:
    """What one part of the measurement took."""
    cpu, ops, began = world.cpu.seconds.copy(), sum(world.ops.values()), len(world.order)
    seconds = host.run(until)
    spent = {name: value - cpu[name] for name, value in world.cpu.seconds.items()}
    return {"seconds": seconds, "cpu": spent, "ops": sum(world.ops.values()) - ops, "starts": len(world.order) - began}


def _most_overtaken(order: Sequence[Run]) -> int:
    """The largest number of younger runs that began before one of these, which are in the order in which they began."""
    return max(sum(earlier.number > run.number for earlier in order[:k]) for k, run in enumerate(order))


def main() -> None:
    work = json.loads(os.environ["WORK"])
    logging.disable(logging.INFO)
    Path(work["out"]).write_text(json.dumps(measure(Path(work["home"]), work["size"], work["workers"])))


if __name__ == "__main__":
    main()
