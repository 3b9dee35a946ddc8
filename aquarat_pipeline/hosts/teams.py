"""Which hosts a job on several takes together."""

from __future__ import annotations

import time
from collections.abc import Iterable

from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.requirement import Requirement


def teams(candidates: Iterable[Host], need: Requirement) -> list[list[Host]]:
    """The groups of which a job takes all its hosts, the one that could give it most first: the hosts of a site, and
    alone those that others do not reach.

    Hosts are in the order of their names, so that two jobs never hold half each and wait for the other half.
    """
    now, found = time.time(), dict[tuple[str, str], list[Host]]()
    for host in sorted(candidates, key=lambda host: host.name):
        alone = host.name if host.why_no_job(now, several=True) else ""
        found.setdefault((host.site, alone), []).append(host)
    enough = [(place, hosts) for place, hosts in found.items() if len(hosts) >= need.nodes]
    return [hosts for _, hosts in sorted(enough, key=lambda team: (-min(len(team[1]), need.most_nodes), team[0]))]
