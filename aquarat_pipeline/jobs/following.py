"""Follows a running job through the store: its output, its heartbeats, and how it ended.

Nothing here requires that the host can be reached. Output is counted in `cursor.json` before it is shown, so that a
worker that takes over shows no line twice.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from aquarat_core.agent.protocol import EndedStatus, Status
from aquarat_core.artifacts import StoreError
from aquarat_core.plain_text import printable
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import commands
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.jobs.outcome import Ending

SLACK_SECONDS = 5.0
"""Seconds until a stopped job's last writes must be visible."""
PROBE_SECONDS = 8.0
"""Seconds that a silent host may take to answer; no output is shown meanwhile. Later, its silence alone decides."""


class Output:
    """Shows the nodes' output in order, each chunk once: lines on stderr, messages to `handle`."""

    def __init__(self, attempt: Attempt, nodes: int, handle: Callable[[dict[str, Any]], None]) -> None:
        self._attempt = attempt
        self._handle = handle
        self._shown = attempt.cursor() or {f"node{node}": 0 for node in range(nodes)}

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier worker has shown part of it."""
        return any(self._shown.values())

    def show_new(self) -> bool:
        """Shows at most one chunk of each node; returns False if there was none."""
        moved = [self._show_next(node) for node in self._shown]
        return any(moved)

    def show_until(self, node: int, chunks: int) -> None:
        """Shows everything that the node printed before it ended."""
        while self._shown[f"node{node}"] < chunks and self._show_next(f"node{node}"):
            pass

    def _show_next(self, node: str) -> bool:
        number = self._shown[node] + 1
        chunk = self._attempt.chunk(node, number)
        if chunk is None:
            return False
        self._shown[node] = number
        self._attempt.write_cursor(self._shown)
        if chunk["lines"]:
            prefix = "" if node == "node0" else f"{node}: "
            sys.stderr.write("".join(f"{prefix}{printable(line)}\n" for line in chunk["lines"]))
            sys.stderr.flush()
        for message in chunk["messages"]:
            self._handle(message)
        return True


class HeartbeatMonitor:
    """Tracks one node's heartbeat by when it last changed, so that clocks of different machines are never compared.

    A node counts as lost when it must have stopped itself, or as soon as its host reports that it is not running there.
    """

    def __init__(self, attempt: Attempt, node: int, host: Host) -> None:
        self.status: Status | None = None
        self.host = host
        self._attempt = attempt
        self._node = node
        self._changed = self._probed = time.monotonic()

    @property
    def ended(self) -> EndedStatus | None:
        """The last status, once it has been written."""
        return self.status if self.status is not None and self.status["state"] == "ended" else None

    def read(self) -> None:
        """Checks for a new heartbeat."""
        status = self._attempt.status(self._node)
        if status != self.status:
            self.status, self._changed = status, time.monotonic()

    def reset(self) -> None:
        """Restarts counting the silence, because the store could not be read until now."""
        self._changed = time.monotonic()

    def detect_loss(self) -> str | None:
        """Asks a host that has missed several heartbeats; returns why the node is lost, or None if it is not."""
        host = self.host
        silent = time.monotonic() - self._changed
        if silent > host.lease_seconds + host.grace_seconds + SLACK_SECONDS:
            return f"{host.name} has been silent for {silent:.0f} s, so its job must have stopped itself"
        if silent < 3 * host.heartbeat_seconds + 1 or time.monotonic() - self._probed < 2 * host.heartbeat_seconds:
            return None
        self._probed = time.monotonic()
        return f"{host.name} no longer runs the job: was it restarted?" if self._end_if_gone() else None

    def _end_if_gone(self) -> bool:
        """Makes the host end the leftovers of a job without a supervisor; returns True when nothing is left."""
        request = commands.job_request(self._attempt, self._node)
        agent = HostAgent(self.host)
        try:
            if agent.status(request, PROBE_SECONDS)["state"] == "running":
                return False
            left = agent.stop(request, 2 * PROBE_SECONDS)
        except HostError:
            return False
        return left["state"] == "stopping" or not left["survivors"]


def follow(attempt: Attempt, hosts: Sequence[Host], output: Output, on_poll: Callable[[], None]) -> Ending:
    """Shows the job's output until it has ended or is lost. `on_poll` is called often and may raise to exit."""
    monitors = [HeartbeatMonitor(attempt, node, host) for node, host in enumerate(hosts)]
    began = time.monotonic()
    while True:
        on_poll()
        try:
            moved = output.show_new()
            for monitor in monitors:
                monitor.read()
        except StoreError as e:
            sys.stderr.write(f"the store: {e}\n")
            for monitor in monitors:
                monitor.reset()
            time.sleep(1)
            continue
        ended = [(monitor.host, status) for monitor in monitors if (status := monitor.ended)]
        if len(ended) == len(monitors):
            for node, (_, status) in enumerate(ended):
                output.show_until(node, status["chunks"])
            return Ending.of(ended)
        if any(status["code"] != 0 for _, status in ended):
            attempt.cancel(f"{ended[0][0].name} ended")
        for monitor in monitors:
            if not monitor.ended and (why := monitor.detect_loss()):
                attempt.cancel(why)
                return Ending(lost=why, host=monitor.host.name)
        if not moved:
            time.sleep(min(1.0, 0.1 + (time.monotonic() - began) / 60))
