"""The logs of a run's job at their source: those of every rank, torchrun and the supervisor, on the job's hosts.

Dagster shows rank 0's output anyway. This is for the other ranks, and for a job that Dagster no longer follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.inventory import local_host, read_inventory
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import commands
from aquarat_pipeline.jobs.attempts import job_at
from aquarat_pipeline.runs.submit import LaunchError
from aquarat_pipeline.tags import JOB_TAG


def last_lines(home: Path, run: dg.DagsterRun, lines: int) -> Iterator[str]:
    """The last `lines` lines of every log of the run's current or last job, each log under its own heading.

    Raises `LaunchError` for a run without a job. A host that does not answer becomes a line of output too.
    """
    job = job_at(run.tags[JOB_TAG]) if JOB_TAG in run.tags else None
    if job is None:
        raise LaunchError(f"run {run.run_id} has no job: it has not reached one yet, or the job is long gone")
    known = {host.name: host for host in (local_host(home), *read_inventory(home).hosts)}
    for node, name in enumerate(job.nodes):
        if name not in known:
            yield f"== {name}: no longer in hosts.yaml"
            continue
        try:
            logs = HostAgent(known[name]).tail(commands.tail_request(job, node, lines))["logs"]
        except HostError as e:
            yield f"== {name}: {e}"
            continue
        for path, said in logs.items():
            yield f"== {name}: {known[name].root}/{path}"
            yield from said
        if not logs:
            yield f"== {name}: it has no logs of this job"
