"""Following a running job through the store: its output, its heartbeats, and how it ended.

Nothing here needs the host to be reachable. What was shown is counted in `cursor.json` before it is shown, so that a
worker that takes over shows no line twice.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aquarat_core.artifacts import StoreError
from aquarat_core.plain_text import printable
from aquarat_pipeline.hosts.inventory import Host
from aquarat_pipeline.hosts.transports import HostError, transport_to
from aquarat_pipeline.jobs import commands
from aquarat_pipeline.jobs.attempts import Attempt

SLACK_SECONDS = 5.0
"""What a stopped job's last writes may take to be seen."""
PROBE_SECONDS = 8.0
"""A silent host may take so long to answer: nothing is followed meanwhile, and silence alone decides in the end."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt ended. `lost` says why the host, and not the stage, is to blame; the next attempt goes on."""

    code: int | None
    lines: list[str]
    lost: str | None = None
    host: str | None = None
    cancelled: bool = False
    """Whether it ended because `cancel.json` asked for it."""

    @property
    def last_lines(self) -> str:
        return "\n".join(self.lines) + ("\n" if self.lines else "")


class Output:
    """Shows what the nodes say, in order, each chunk once: lines on stderr, messages to `handle`."""

    def __init__(self, attempt: Attempt, nodes: int, handle: Callable[[dict[str, Any]], None]) -> None:
        self._attempt = attempt
        self._handle = handle
        self._shown = attempt.folder.read_json("cursor.json") or {f"node{node}": 0 for node in range(nodes)}

    @property
    def is_resumed(self) -> bool:
        return any(self._shown.values())

    def show_new(self) -> bool:
        """Shows at most one chunk of each node; False if there was none."""
        moved = [self._show_next(node) for node in self._shown]
        return any(moved)

    def show_until(self, node: int, chunks: int) -> None:
        """Shows all that the node said before it ended."""
        while self._shown[f"node{node}"] < chunks and self._show_next(f"node{node}"):
            pass

    def _show_next(self, node: str) -> bool:
        number = self._shown[node] + 1
        chunk = self._attempt.folder.read_json(f"output/{node}/{number:06d}.json")
        if chunk is None:
            return False
        self._shown[node] = number
        self._attempt.folder.write_json("cursor.json", self._shown)
        if chunk["lines"]:
            prefix = "" if node == "node0" else f"{node}: "
            sys.stderr.write("".join(f"{prefix}{printable(line)}\n" for line in chunk["lines"]))
            sys.stderr.flush()
        for message in chunk["messages"]:
            self._handle(message)
        return True


class Pulse:
    """One node's heartbeat, by the time at which it was last seen to change: nobody's clock is compared with another's.

    A node counts as lost once it must have stopped itself, or as soon as its host says that it no longer runs there.
    """

    def __init__(self, attempt: Attempt, node: int, host: Host) -> None:
        self.status: dict[str, Any] | None = None
        self.host = host
        self._attempt = attempt
        self._node = node
        self._changed = self._probed = time.monotonic()

    @property
    def has_ended(self) -> bool:
        return self.status is not None and self.status["state"] == "ended"

    def read(self) -> None:
        """Looks for a new heartbeat."""
        status = self._attempt.status(self._node)
        if status != self.status:
            self.status, self._changed = status, time.monotonic()

    def forgive(self) -> None:
        """Silence does not count while this side could not listen."""
        self._changed = time.monotonic()

    def lost(self) -> str | None:
        """Why the node is lost, if it is."""
        host = self.host
        silent = time.monotonic() - self._changed
        if silent > host.lease_seconds + host.grace_seconds + SLACK_SECONDS:
            return f"{host.name} has been silent for {silent:.0f} s, and its job has stopped itself by now"
        if silent < 3 * host.heartbeat_seconds + 1 or time.monotonic() - self._probed < 2 * host.heartbeat_seconds:
            return None
        self._probed = time.monotonic()
        identity = commands.identity(self._attempt, self._node)
        try:
            transport = transport_to(host)
            if transport.call("status", identity, seconds=PROBE_SECONDS)["state"] == "running":
                return None
            left = transport.call("stop", identity, seconds=2 * PROBE_SECONDS)
        except HostError:
            return None
        return None if left.get("survivors") else f"{host.name} no longer runs the job: was it restarted?"


def follow(attempt: Attempt, hosts: list[Host], output: Output, check: Callable[[], None]) -> Ending:
    """Shows the job's output until it has ended or is lost. `check` is called often, and may raise to leave."""
    pulses = [Pulse(attempt, node, host) for node, host in enumerate(hosts)]
    began = time.monotonic()
    while True:
        check()
        try:
            moved = output.show_new()
            for pulse in pulses:
                pulse.read()
        except StoreError as e:
            sys.stderr.write(f"the store: {e}\n")
            for pulse in pulses:
                pulse.forgive()
            time.sleep(1)
            continue
        ended = [pulse for pulse in pulses if pulse.has_ended]
        if len(ended) == len(pulses):
            return _ending(pulses, output)
        if ended and any(pulse.status["code"] != 0 for pulse in ended):
            attempt.cancel(f"{ended[0].host.name} ended")
        for pulse in pulses:
            if not pulse.has_ended and (why := pulse.lost()):
                attempt.cancel(why)
                return Ending(None, [], lost=why, host=pulse.host.name)
        if not moved:
            time.sleep(min(1.0, 0.1 + (time.monotonic() - began) / 60))


def _ending(pulses: list[Pulse], output: Output) -> Ending:
    """The first node with something to say of a failure speaks for all; one that was told to end has nothing."""
    for node, pulse in enumerate(pulses):
        output.show_until(node, pulse.status["chunks"])
    blamed = next((p for p in pulses if p.status["reason"] not in (None, "cancelled")), None)
    failing = [pulse for pulse in pulses if pulse.status["code"] != 0]
    failed = next((p for p in failing if p.status["reason"] is None), next(iter(failing), pulses[0]))
    pulse = blamed or failed
    status = pulse.status
    lost = status["reason"] if blamed else _killed(status)
    return Ending(
        status["code"],
        status["tail"],
        lost=lost and f"{pulse.host.name}: {lost}",
        host=pulse.host.name,
        cancelled=status["reason"] == "cancelled",
    )


def _killed(status: dict[str, Any]) -> str | None:
    """Which signal or fault of torchrun ended the job, if one did; it says nothing against the stage."""
    number = status["signal"] or (-status["code"] if (status["code"] or 0) < 0 else None)
    if number:
        return f"the stage was killed by signal {number}"
    if status.get("launcher_failed") and status["reason"] is None:
        return f"torchrun ended with exit code {status['code']} though none of its ranks had failed"
    return None
