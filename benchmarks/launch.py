"""The cost of launching: seconds before the trainer's first and after its last line, and CPU and bytes while idle.

A toy trainer runs under torchrun, queued as `aquarat launch` does and executed by Dagster's own daemon and the run
launcher, on this machine and, over the OpenSSH client, on an sshd of loopback. `import torch`, measured beside each
launch, is not ours and is taken off the seconds to the first line. The quiet run makes a step a second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aquarat_core.artifacts import JobDir
from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.tags import WORKER_TAG
from benchmarks.harness import Against, Result, unmeasured
from tests.launching.cluster_fixture import Cluster, ready_cluster
from tests.launching.network import SSHD, loopback

ASSET = "sft_checkpoint"
RUNS = 5
QUIET_SECONDS = 40
LINES = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")
EVERY_HOUR = {"heartbeat_seconds": 5.0, "lease_seconds": 60.0}
"""The defaults of the inventory, whose heartbeats the figures by the hour are to have."""


def run() -> list[Result]:
    """All of it; the part over SSH needs sshd and is said to be unmeasured without."""
    with ready_cluster(monitor_seconds=10) as cluster:
        cluster.write_hosts([cluster.local_host("here") | EVERY_HOUR])
        results = [*_latency(cluster, "local"), *_quiet(cluster), _memory(cluster)]
    if not shutil.which(SSHD):
        return [*results, unmeasured("ssh/first_line", "s", "there is no sshd: install openssh-server")]
    with tempfile.TemporaryDirectory(prefix="aquarat-sshd-") as directory, loopback(Path(directory)) as (config, host):
        host |= {**EVERY_HOUR, "env": {"PYTHONPATH": str(REPO_ROOT)}}
        with ready_cluster([host], env={"AQUARAT_SSH_CONFIG": str(config)}) as cluster:
            return [*results, *_latency(cluster, "ssh")]


def _latency(cluster: Cluster, where: str) -> list[Result]:
    """Seconds to the first line, less those of `import torch`, and from the last line to the materialization."""
    cluster.order(ASSET, steps=1)
    first, last, imports = [], [], []
    for _ in range(RUNS):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imports.append(time.monotonic() - began)
        queued = time.time()
        run_id = cluster.launch(ASSET)
        assert cluster.wait(run_id) == "SUCCESS", cluster.story(run_id)
        first.append(cluster.times(run_id, ASSET)["first"] - queued - imports[-1])
        last.append(_after_last_line(cluster, run_id))
    torch = Against("import torch", sorted(imports)[RUNS // 2])
    return [
        Result(f"{where}/first_line", "s", tuple(first), torch, goal="≤ 6 s"),
        Result(f"{where}/after_last_line", "s", tuple(last), goal="≤ 3 s"),
    ]


def _after_last_line(cluster: Cluster, run_id: str) -> float:
    """Seconds from the trainer's last line to the materialization."""
    made = next(record for record in cluster.materializations(ASSET) if record.run_id == run_id)
    return made.timestamp - cluster.times(run_id, ASSET)["last"]


def _quiet(cluster: Cluster) -> list[Result]:
    """What control host and store are troubled with while the trainer makes a step a second, and how such a run ends.

    The worker is what the run itself costs; daemon and code server wait for the next run whether one trains or not.
    """
    cluster.order(ASSET, steps=QUIET_SECONDS + 20, seconds=1)
    run_id = cluster.launch(ASSET)
    cluster.wait_for_step(run_id, ASSET, 10)
    worker, standing = cluster.worker(run_id), _standing(cluster, run_id)
    before, began = {pid: _cpu(pid) for pid in (worker, *standing)}, time.monotonic()
    time.sleep(QUIET_SECONDS)
    seconds = time.monotonic() - began
    # A helper process that Dagster started for a moment may have ended.
    spent = {pid: (now - cpu) / seconds for pid, cpu in before.items() if (now := _cpu(pid)) >= cpu}
    used = spent.pop(worker)
    idle = sum(spent.values())
    assert cluster.wait(run_id) == "SUCCESS", cluster.story(run_id)
    job = JobDir.at(cluster.job_uri(run_id))
    size = sum(len(job.backend.read(key).data) for key in job.backend.keys(f"{job.prefix}/output/"))
    return [
        Result("quiet/worker_cpu", "%", (100 * used,), goal="≤ 1 %"),
        Result("quiet/worker_cpu_per_hour", "s", (3600 * used,)),
        Result("quiet/dagster_cpu", "%", (100 * idle,)),
        Result("quiet/messages_per_hour", "kB", (3600 * size / (QUIET_SECONDS + 20) / 1000,)),
        Result("quiet/after_last_line", "s", (_after_last_line(cluster, run_id),), goal="≤ 3 s"),
    ]


def _standing(cluster: Cluster, run_id: str) -> list[int]:
    """Dagster's own processes: daemon and code server."""
    job = {cluster.worker(run_id), *cluster.members(run_id)}
    job.update(process["pid"] for lease in cluster.leases() for process in lease["processes"])
    return [pid for pid in cluster.started() if pid not in job]


def _memory(cluster: Cluster) -> Result:
    """Peak memory of the worker that showed a million lines, against one that showed a thousand."""
    peaks = {lines: _peak(cluster, lines) for lines in (1_000, LINES)}
    against = Against("1,000 lines", peaks[1_000])
    return Result("worker_memory_of_1M_lines", "MB", (peaks[LINES],), against, peaks[LINES] / peaks[1_000], "≤ 1.1")


def _peak(cluster: Cluster, lines: int) -> float:
    cluster.order(ASSET, steps=1, lines=lines)
    run_id = cluster.launch(ASSET)
    peak = 0.0
    while not cluster.run(run_id).is_finished:
        peak = max(peak, _high_water(cluster.worker(run_id))) if WORKER_TAG in cluster.run(run_id).tags else peak
        time.sleep(0.1)
    assert cluster.wait(run_id) == "SUCCESS", cluster.story(run_id)
    return peak


def _high_water(pid: int) -> float:
    """The most memory the process ever had, in MB."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def _cpu(pid: int) -> float:
    """Processor seconds of the process so far; 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS
