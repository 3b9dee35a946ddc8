"""The executor for a Ray cluster: a task for each shard, in one Ray job, which ends with this process.

The hosts read and write the store themselves. Nothing has to be found again after a crash: what the job's tasks stored
is in the store, and a new job makes the rest.
"""

from __future__ import annotations

import json
import math
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from aquarat_core.errors import StageError, UsageError
from aquarat_core.sharding.executor import Ended, read_ended
from aquarat_core.sharding.processes import PIECE
from aquarat_core.sharding.records import ShardStore
from aquarat_core.sharding.spec import ShardSpec
from aquarat_core.sharding.version import project_version

VARIABLE = "AQUARAT_RAY_ADDRESS"
_REMEDY = (
    "Correct the address, start Ray there (python -m ray.scripts.scripts start --head), or take "
    f"{VARIABLE} away, so that processes of this host make the shards; then start the stage again. Shards that are "
    "done stay in the store"
)
_SLOTS = b'{"slots"'
"""How the client's lines about the number of CPUs begin."""
_ANSWERS_WITHIN = 10.0
_SECONDS_TO_END = 30.0


def check_address(address: str) -> None:
    """Raises `UsageError` if the address is malformed or Ray is not installed, and `StageError` if no cluster answers
    at it."""
    match = re.fullmatch(r"(?:local|auto|(?:ray://)?(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5}))", address)
    if re.match(r"https?://", address):
        raise UsageError(
            f"{VARIABLE} is {address!r}, which is the address of a job server or dashboard: give HOST:PORT of the "
            "cluster's head instead, usually with port 6379 (from a host that has not joined the cluster, "
            "ray://HOST:PORT, usually with port 10001)"
        )
    if match is None:
        raise UsageError(f"{VARIABLE} is {address!r}: write local, auto, HOST:PORT or ray://HOST:PORT")
    if find_spec("ray") is None:
        raise UsageError(
            f"{VARIABLE} is set, and Ray is not installed. In a checkout, ./run setup --ray installs it; elsewhere, "
            "pip install 'aquarat[ray]'. Without the variable, shards are made by processes of this machine"
        )
    if match["host"]:
        try:
            socket.create_connection((match["host"].strip("[]"), int(match["port"])), _ANSWERS_WITHIN).close()
        except (OSError, OverflowError) as e:
            raise StageError(f"nobody answers at {VARIABLE}={address} ({e}). {_REMEDY}") from None


class RayCluster:
    """Makes shards in up to `most` tasks at a time, at most one for each CPU of the cluster."""

    def __init__(self, shards: ShardStore, address: str, most: int, patience: float = 180.0) -> None:
        """Connects within `patience` seconds. Raises like `check_address`, and `StageError` if Ray refuses."""
        self._shards, self._address, self._most, self._patience = shards, address, most, patience
        self._began: dict[int, float] = {}
        self._selector = selectors.DefaultSelector()
        self._received = b""
        self._client: subprocess.Popen[bytes] | None = None
        self._slots = most
        self._no_cpu_since: float | None = None
        self._connect()

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, attempt: int, spec: ShardSpec) -> None:
        if self._client is None:
            self._connect()
        task = spec.task(self._shards.stage, self._shards.store.uri)
        self._began[attempt] = time.monotonic()
        self._send(task | {"attempt": attempt, "version": project_version()})

    def wait(self, seconds: float) -> list[Ended]:
        if self._client is None:
            time.sleep(seconds)
            return []
        lines = self._lines(seconds)
        if lines is None:
            code = self._end()
            said = f"the connection to Ray at {self._address} ended (exit code {code})"
            lost = [Ended(attempt, None, said, "lost") for attempt in self._began]
            self._began.clear()
            return lost
        ended: list[Ended] = []
        for line in lines:
            if line.startswith(_SLOTS):
                self._see_slots(json.loads(line))
            else:
                ended.append(read_ended(line))
        if self._no_cpu_since is not None and time.monotonic() - self._no_cpu_since > self._patience:
            raise StageError(
                f"Ray at {VARIABLE}={self._address} has had no CPU for {self._patience:.0f} s: let a host join it "
                "(ray start --address=...), then start the stage again. Shards that are done stay in the store"
            )
        # The reply about an attempt that was stopped may have been under way.
        return [self._checked(one) for one in ended if one.attempt in self._began]

    def seconds(self, attempt: int) -> float:
        """Since it was given to Ray: what it waits there for a place or a worker counts."""
        return max(0.0, time.monotonic() - self._began.get(attempt, math.inf))

    def stop(self, attempt: int) -> None:
        del self._began[attempt]
        self._send({"stop": attempt})

    def close(self) -> None:
        self._end()
        self._selector.close()

    def _connect(self) -> None:
        check_address(self._address)
        until = time.monotonic() + self._patience
        while "error" in (said := self._first_words(until)):
            self._end()
            if not said["again"] or time.monotonic() >= until:
                self.close()
                raise StageError(f"Ray at {VARIABLE}={self._address}: {said['error'].strip()}\n{_REMEDY}")
        self._see_slots(said)

    def _see_slots(self, said: Mapping[str, Any]) -> None:
        """As many attempts as the cluster has CPUs now; one even if it has none, because some clusters grow when they
        are asked for something."""
        slots = int(said["slots"])
        self._slots = max(1, min(self._most, slots))
        if slots:
            self._no_cpu_since = None
        elif self._no_cpu_since is None:
            self._no_cpu_since = time.monotonic()

    def _first_words(self, until: float) -> dict[str, Any]:
        """Starts a client and returns its first reply: the number of the cluster's CPUs, or an error."""
        command = [sys.executable, "-m", "aquarat_core.sharding.ray_client", self._address, self._shards.stage]
        self._client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._client.stdout is not None
        self._received = b""
        self._selector.register(self._client.stdout, selectors.EVENT_READ)
        try:
            return self._first_line(until)
        except BaseException:
            self.close()
            raise

    def _first_line(self, until: float) -> dict[str, Any]:
        while (left := until - time.monotonic()) > 0:
            lines = self._lines(left)
            if lines is None:
                raise StageError(f"the connection to Ray at {VARIABLE}={self._address} was not made. {_REMEDY}")
            if lines:
                return json.loads(lines[0])
        raise StageError(f"Ray at {VARIABLE}={self._address} gave no answer within {self._patience:.0f} s. {_REMEDY}")

    def _lines(self, seconds: float) -> list[bytes] | None:
        """The lines that arrive next; None if the client has ended."""
        if not self._selector.select(seconds):
            return []
        assert self._client is not None and self._client.stdout is not None
        data = os.read(self._client.stdout.fileno(), PIECE)
        *lines, self._received = (self._received + data).split(b"\n")
        return lines if data else None

    def _send(self, request: dict[str, Any]) -> None:
        if self._client is not None and self._client.stdin is not None:
            with suppress(BrokenPipeError):
                self._client.stdin.write(json.dumps(request).encode() + b"\n")

    def _checked(self, ended: Ended) -> Ended:
        """A host that does not see this store would make one of its own at the same path."""
        del self._began[ended.attempt]
        if ended.record is None or self._shards.holds(ended.record):
            return ended
        return Ended(
            ended.attempt, None,
            f"the Ray host {ended.record.host} has stored shard {ended.record.name} elsewhere: "
            f"{self._shards.store.uri} is another folder there. Use a bucket, or a folder that all hosts share",
            "user", "StageError",
        )  # fmt: skip

    def _end(self) -> int:
        """Ends the client, and with it the job and a local cluster; returns its exit code."""
        if self._client is None:
            return 0
        client, self._client = self._client, None
        assert client.stdin is not None and client.stdout is not None
        self._selector.unregister(client.stdout)
        with suppress(BrokenPipeError):
            client.stdin.close()
        try:
            code = client.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            client.kill()
            code = client.wait()
        client.stdout.close()
        return code
