"""Two control machines with one PostgreSQL, store and GPU host.

The other machine has a host name and process ids of its own, and a Dagster home; the GPU host is reached over ssh.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.launching.cluster_fixture import Cluster
from tests.launching.network import SSHD, loopback
from tests.launching.postgres import PASSWORD, Postgres, postgres, why_not
from tests.patience import limit

NAMESPACE = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]


@functools.cache
def lost_seconds() -> float:
    """Some heartbeats, so that the tests need not wait for a minute; more on a busy machine, where one may be late."""
    return min(45.0, limit(6))


@contextmanager
def postgres_or_skip() -> Iterator[Postgres]:
    """A server, if this machine has one."""
    if why := why_not():
        pytest.skip(why)
    with postgres() as made:
        yield made


def settings(server: Postgres) -> dict[str, Any]:
    """Sections of `dagster.yaml`."""
    launcher = {"module": "aquarat_pipeline.runs.launcher", "class": "GpuRunLauncher"}
    return {
        "storage": server.storage(),
        "run_launcher": {**launcher, "config": {"lost_after_seconds": lost_seconds()}},
    }


@contextmanager
def control_host(server: Postgres, folder: Path, park_after_seconds: float = 0) -> Iterator[Cluster]:
    """This machine, with its daemon."""
    if not shutil.which(SSHD) or not shutil.which("ssh"):
        pytest.skip("there is no sshd: install openssh-server and openssh-client")
    # What is started over ssh ends with the cluster too, also when a test fails.
    mark = {"AQUARAT_TEST_CLUSTER": str(folder / "cluster")}
    with pytest.MonkeyPatch.context() as patch, loopback(folder, mark) as (config, host):
        patch.setenv(PASSWORD, server.password)
        patch.setenv("AQUARAT_SSH_CONFIG", str(config))
        made = Cluster(
            folder / "cluster",
            hosts=[host],
            env={"AQUARAT_SSH_CONFIG": str(config)},
            settings=settings(server),
            park_after_seconds=park_after_seconds,
        )
        try:
            yield made.ready()
        finally:
            made.close()


@contextmanager
def other_machine(here: Cluster, server: Postgres, folder: Path) -> Iterator[Cluster]:
    """Another machine with the same database, store and hosts, and no daemon yet."""
    tried = subprocess.run([*NAMESPACE, "hostname elsewhere"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this machine makes no namespaces of process ids and host names: {tried.stderr.strip()}")
    made = Cluster(
        folder,
        store=here.store_uri,
        env={"AQUARAT_SSH_CONFIG": here.environment["AQUARAT_SSH_CONFIG"], **server.environment},
        settings=settings(server),
        prefix=[*NAMESPACE, 'hostname elsewhere && exec "$@"', "sh"],
    )
    (made.home / "hosts.yaml").write_text((here.home / "hosts.yaml").read_text())
    try:
        yield made
    finally:
        made.stop_daemon()
        made.kill_everything()
        made.instance.dispose()


def signal_all(cluster: Cluster, how: signal.Signals) -> None:
    """Sends the signal to all processes of a cluster."""
    for pid in cluster.started():
        with suppress(ProcessLookupError):
            os.kill(pid, how)
