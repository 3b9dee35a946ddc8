"""The output of a run's job at its source: the logs of every rank, torchrun and the supervisor, on the job's hosts.

Dagster shows rank 0's output anyway. This is for the other ranks, and for a job that Dagster no longer follows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg

from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.inventory import local_host, read_inventory
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import commands
from aquarat_pipeline.jobs.attempts import Job, job_at
from aquarat_pipeline.runs.submit import LaunchError, run_of
from aquarat_pipeline.tags import JOB_TAG

POLL_SECONDS = 1.0
_RANK = re.compile(r"/attempt_\d+/(\d+)/(stdout|stderr)\.log$")


def last_lines(home: Path, run: dg.DagsterRun, lines: int) -> Iterator[str]:
    """The last `lines` lines of every log of the run's current or last job, each log under its own heading.

    The ranks come first; empty logs and those of W&B itself are left out. Raises `LaunchError` for a run without a job.
    A host that does not answer becomes a line of output too.
    """
    job = _job(run)
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
        there = [path for path in _in_order(logs) if any(line.strip() for line in logs[path])]
        for path in there:
            rank = _RANK.search(path)
            what = f"rank {rank[1]}, {rank[2]}" if rank else Path(path).name
            yield f"== {name}: {what}"
            yield from logs[path]
        said = f"{known[name].root}/{_folder(there)}" if there else "no lines in any log of this job"
        yield f"== {name}: {said}"


def follow(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    """What the run's jobs print from now on, rank 0 of every host, until the run has ended."""
    shown: dict[str, dict[str, int]] = {}
    while True:
        # Read before the output, so that the last lines of a finished run are included.
        run = run_of(instance, run_id)
        if job := _job(run):
            begun = {**(job.cursor() or {})} if not shown else {}
            numbers = shown.setdefault(job.folder.uri, {f"node{n}": 0 for n in range(len(job.nodes))} | begun)
            for node, number in numbers.items():
                while chunk := job.chunk(node, number + 1):
                    number += 1
                    yield from (line if node == "node0" else f"{node}: {line}" for line in chunk["lines"])
                numbers[node] = number
        if run.is_finished:
            return
        time.sleep(POLL_SECONDS)


def _job(run: dg.DagsterRun) -> Job | None:
    return job_at(run.tags[JOB_TAG]) if JOB_TAG in run.tags else None


def _in_order(paths: Iterable[str]) -> list[str]:
    """The logs of the ranks, then the others; none of W&B's own."""
    wanted = [path for path in paths if "/wandb/" not in path]
    return sorted(wanted, key=lambda path: (not _RANK.search(path), path))


def _folder(paths: list[str]) -> str:
    """The folder of the job on its host, in which all its logs are."""
    return "/".join(Path(paths[0]).parts[:2])
