"""Which hosts the next attempt at a job leaves to the last, because it has just failed there."""

from __future__ import annotations

from aquarat_pipeline.hosts.requirement import Requirement


class AvoidedHosts:
    """The hosts that failed a job.

    A job on a fixed number of hosts avoids all of them: it may run on others. One on a varying number would go on with
    fewer hosts, so it only avoids a host that is gone or refuses it, or that failed it twice in a row, and only in the
    next attempt: later ones may take it again.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._last: str | None = None

    def add(self, need: Requirement, host: str | None, *, gone: bool) -> None:
        """`host` failed the job, or nobody knows which. `gone`: as a host, and not only one of its processes."""
        if need.max_nodes is not None:
            again, self._last = host == self._last, host
            self.names.clear()
            if not (gone or again):
                return
        if host:
            self.names.add(host)
