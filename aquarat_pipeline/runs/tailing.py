"""The logs of a run's job where they were written: every rank's, torchrun's and the supervisor's, on the job's hosts.

What rank 0 says is in Dagster anyway. This is for the others, and for a job that Dagster no longer follows.
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
    """The last `lines` lines of every log of the run's current or last job, each log under a heading of its own.

    Raises `LaunchError` for a run that has no job. A host that does not answer is a line like any other.
    """
    job = job_at(run.tags[JOB_TAG]) if JOB_TAG in run.tags else None
    if job is None:
        raise LaunchError(f"run {run.run_id} has no job: it has not come to one yet, or it is long gone")
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
