"""A running job: an attempt that was started on all its hosts. Follows it, renews its tokens, and stops it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from aquarat_core.agent.protocol import StopReply
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.credentials import RENEW_SECONDS, host_token
from aquarat_pipeline.hosts.inventory import Host, read_inventory
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import commands
from aquarat_pipeline.jobs.attempts import Attempt, Job
from aquarat_pipeline.jobs.following import Output, follow
from aquarat_pipeline.jobs.outcome import JobOutcome

STOP_SECONDS = 25.0
"""Seconds that a stopped job may take to confirm its end."""
ASK_SECONDS = 10.0


class RunningJob:
    """An attempt and the hosts that claimed it, by node."""

    def __init__(self, attempt: Attempt, hosts: Sequence[Host]) -> None:
        self.attempt = attempt
        self.hosts = tuple(hosts)
        self._renewed = time.monotonic()
        self._tokens: dict[int, str] = {}
        """The latest token of each node."""

    @classmethod
    def attach(cls, attempt: Attempt, home: Path, local: Host) -> RunningJob | None:
        """The running attempt, or None if one of its nodes was never started. Raises `InventoryError`.

        `local` is this machine. A host that was removed from the inventory can still be followed through the store.
        """
        claims = attempt.claims
        names = [claim["host"] for claim in claims if claim]
        if not names or len(names) < len(claims):
            return None
        known = {host.name: host for host in (*read_inventory(home).hosts, local)}
        return cls(attempt, [known.get(name) or local.model_copy(update={"name": name}) for name in names])

    @property
    def host_names(self) -> list[str]:
        """Names of its hosts, the rendezvous host first."""
        return [host.name for host in self.hosts]

    def follow(self, output: Output, on_poll: Callable[[], None]) -> JobOutcome:
        """Shows its output until it has ended or is lost; `on_poll` may raise to exit."""

        def poll() -> None:
            on_poll()
            self._renew_tokens()

        self._renewed = time.monotonic()
        ending = follow(self.attempt, self.hosts, output, poll)
        return JobOutcome.of(ending, self.attempt.result())

    def stop(self, without: str | None = None) -> list[str]:
        """Ends the job on all its hosts and waits for that; returns the hosts that did not confirm it. The host
        `without` is not asked, because it is lost.

        Call it after cancelling the attempt, which also reaches hosts that cannot be contacted.
        """
        reachable = [node for node, host in enumerate(self.hosts) if host.name != without]
        asked = [node for node in reachable if not _is_stopped(self._request_stop(node))]
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            statuses = [self.attempt.status(node) for node in asked]
            if all(status and status["state"] == "ended" for status in statuses):
                return []
            time.sleep(0.1)
        return [self.hosts[node].name for node in asked]

    def _request_stop(self, node: int) -> StopReply | None:
        """The host's reply to the request to end its part; None if it does not answer."""
        with suppress(HostError):
            return HostAgent(self.hosts[node]).stop(commands.job_request(self.attempt, node), ASK_SECONDS)
        return None

    def _renew_tokens(self) -> None:
        """Gives every host a fresh token from time to time, if the store needs tokens."""
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        renew_tokens(self.attempt, self.attempt.spec.stage, self.hosts, self._tokens)


def renew_tokens(job: Job, stage: str, hosts: Sequence[Host], known: dict[int, str]) -> None:
    """Gives every host of the job a fresh token, if the store needs tokens; `known` are those that they have."""
    for node, host in enumerate(hosts):
        # A host that cannot be reached now keeps its old token for a while, and gets a later one.
        with suppress(HostError):
            token = host_token(job.folder, stage)
            if token and token["token"] != known.get(node):
                HostAgent(host).renew(commands.renew_request(job, node, token))
                known[node] = token["token"]


def _is_stopped(reply: StopReply | None) -> bool:
    """Whether the host reports that nothing of the job is left, not even a supervisor that could confirm its end."""
    return reply is not None and reply["state"] == "stopped" and not reply["survivors"]
