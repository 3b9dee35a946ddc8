"""A control host in a directory of its own: Dagster's daemon and run workers, an inventory, orders for the toy stages.

The tests and `benchmarks/faults.py` drive it alike. Everything it starts carries `AQUARAT_TEST_CLUSTER`, so that what
is left at the end can be counted, and ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import requests
import yaml

from aquarat_core.agent import processes
from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.hosts.transports import HostError, SshTransport, transport_to
from aquarat_pipeline.runs import submit
from aquarat_pipeline.tags import JOB_TAG
from aquarat_pipeline.workers import worker_of
from tests.patience import limit, wait_until
from tests.serving import free_port

MODULE = "tests.launching.definitions"
FAST = {"heartbeat_seconds": 0.5, "lease_seconds": 6.0, "grace_seconds": 2.0, "min_free_gb": 0}


class Cluster:
    """One DAGSTER_HOME, one store, the hosts given, and the processes that a user would start."""

    def __init__(
        self,
        directory: Path,
        hosts: list[dict[str, Any]] | None = None,
        store: str | None = None,
        env: dict[str, str] | None = None,
        monitor_seconds: int = 1,
        module: str = MODULE,
        park_after_seconds: float = 0,
        settings: dict[str, Any] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """`settings` are sections of `dagster.yaml`; `prefix` goes before every command, as that of a namespace."""
        self.module = module
        self._prefix = [*prefix]
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        self.store_uri = store or f"file://{directory}/store"
        self.mark = str(directory)
        whole = yaml.safe_load((REPO_ROOT / "dagster_home/dagster.yaml").read_text()) | (settings or {})
        whole["run_monitoring"]["poll_interval_seconds"] = monitor_seconds
        whole["run_launcher"]["config"]["park_after_seconds"] = park_after_seconds
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(whole))
        self.write_hosts(hosts or [self.local_host("one")])
        location = {
            "python_module": {"module_name": module, "location_name": "toys", "working_directory": str(REPO_ROOT)}
        }
        self.workspace = directory / "workspace.yaml"
        self.workspace.write_text(yaml.safe_dump({"load_from": [location]}))
        self.environment = {
            "DAGSTER_HOME": str(self.home),
            "AQUARAT_STORE": self.store_uri,
            "AQUARAT_CACHE": str(directory / "cache"),
            "AQUARAT_TEST_CLUSTER": self.mark,
            "AQUARAT_PROFILE": str(Path(__file__).with_name("profile.yaml")),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join([str(REPO_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
            **(env or {}),
        }
        self._daemon: subprocess.Popen | None = None
        self.instance = dg.DagsterInstance.from_config(str(self.home))

    def local_host(self, name: str, **fields: Any) -> dict[str, Any]:
        """A host of the inventory that is this machine, with a root of its own."""
        return {"name": name, "transport": "local", "root": str(self.directory / name), **FAST, **fields}

    def write_hosts(self, hosts: list[dict[str, Any]]) -> None:
        (self.home / "hosts.yaml").write_text(yaml.safe_dump({"hosts": hosts}))

    def order(self, asset: str, **orders: Any) -> None:
        """What the toy trainer of an asset shall do from now on."""
        self._orders(asset).write_json("order.json", {**orders, "number": time.monotonic_ns()})

    def release(self, asset: str) -> None:
        """Lets the trainer go on that the last order holds."""
        folder = self._orders(asset)
        if order := folder.read_json("order.json"):
            folder.write_json("released.json", {"number": order["number"]})

    def _orders(self, asset: str) -> JobDir:
        # Where a job of the asset may read and write.
        return JobDir(open_backend(self.store_uri), f"work/{asset}/toy")

    def start_daemon(self) -> subprocess.Popen:
        """Dagster's own daemon, which brings its code server along."""
        self._daemon = self._start("daemon.log", "-m", "dagster._daemon", "run", "-w", str(self.workspace))
        return self._daemon

    @contextmanager
    def web_server(self) -> Iterator[WebServer]:
        """Dagster's own web server, which comes up meanwhile; it is killed in the end."""
        port = free_port()
        command = ["-m", "aquarat_pipeline.web", "-h", "127.0.0.1", "-p", str(port), "-w", str(self.workspace)]
        server = self._start("web.log", *command)
        try:
            yield WebServer(f"http://127.0.0.1:{port}")
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def _start(self, log: str, *command: str, **more: str) -> subprocess.Popen:
        """A Python program as a user starts it, in a session of its own."""
        env = {**os.environ, **self.environment, **more}
        # Dagster refuses to be told of the code location twice, by its variable and by the workspace file.
        env.pop("DAGSTER_MODULE_NAME", None)
        with (self.directory / log).open("ab") as out:
            return subprocess.Popen(
                [*self._prefix, sys.executable, *command],
                env=env, cwd=REPO_ROOT, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def dagster(self, *arguments: str) -> None:
        """Dagster's command line, as a user types it."""
        done = self._start("dagster.log", "-m", "dagster", *arguments, "-w", str(self.workspace)).wait(limit(120))
        assert done == 0, (self.directory / "dagster.log").read_text()

    def ready(self) -> Cluster:
        """With its daemon running, and the asset there that the trained one is made from."""
        self.start_daemon()
        self.order("aqua_dataset", steps=1)
        assert self.wait(self.launch("aqua_dataset")) == "SUCCESS"
        return self

    def command(self, *arguments: str) -> None:
        """`aquarat`, as a user types it."""
        done = self._start("command.log", "-m", "aquarat_core.cli", *arguments).wait(limit(120))
        assert done == 0, (self.directory / "command.log").read_text()

    def launch(self, *assets: str, with_parents: bool = False, tags: dict[str, str] | None = None) -> str:
        """Queues a run; its id."""
        previous = {name: os.environ.get(name) for name in (*self.environment, "DAGSTER_MODULE_NAME")}
        os.environ.update(self.environment, DAGSTER_MODULE_NAME=self.module)
        try:
            run = submit.submit(
                self.instance, list(assets), with_parents=with_parents, tags=tags, workspace=self.workspace
            )
            return run.run_id
        finally:
            for name, value in previous.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)

    def shell(self, asset: str, **env: str) -> subprocess.Popen:
        """`dagster asset materialize` as a user runs it, with `env` in the terminal's environment."""
        return self._start(
            "shell.log", "-m", "dagster", "asset", "materialize", "--select", asset, "-m", self.module, **env
        )

    # --- looking -----------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def wait(self, run_id: str, seconds: float = 120) -> str:
        """The status the run ends with."""
        try:
            wait_until(lambda: self.run(run_id).is_finished, seconds, f"run {run_id} ends")
        except AssertionError:
            raise AssertionError(self.story(run_id)) from None
        return self.run(run_id).status.value

    def wait_for_step(self, run_id: str, asset: str, step: int = 1, seconds: float = 90) -> None:
        """Until the trainer has saved that step."""
        wait_until(lambda: self.state(run_id, asset) >= step, seconds, f"{asset} is at step {step}")

    def state(self, run_id: str, asset: str) -> int:
        return (self._trainer(run_id, asset).read_json("state.json") or {"step": 0})["step"]

    def trace(self, run_id: str, asset: str) -> list[dict[str, Any]]:
        """Every step that any trainer made for the run's asset, in order."""
        folder = self._trainer(run_id, asset)
        keys = sorted(folder.backend.keys(f"{folder.prefix}/trace/"))
        return [folder.read_json(key.removeprefix(f"{folder.prefix}/")) for key in keys]

    def times(self, run_id: str, asset: str) -> dict[str, float]:
        """When the trainer wrote its `first` and its `last` line."""
        return self._trainer(run_id, asset).read_json("times.json")

    def _trainer(self, run_id: str, asset: str) -> JobDir:
        return JobDir(open_backend(self.store_uri), f"work/{asset}/toy/{run_id}")

    def worker(self, run_id: str) -> int:
        """Process id of the run's worker, once it executes steps."""
        return worker_of(self.run(run_id).tags)["pid"]

    def job_uri(self, run_id: str) -> str:
        return self.run(run_id).tags[JOB_TAG]

    def status(self, run_id: str, node: int = 0) -> dict[str, Any]:
        """The last heartbeat of the run's current job."""
        return JobDir.at(self.job_uri(run_id)).read_json(f"status/node{node}.json")

    def supervisor(self, run_id: str) -> int:
        return self.status(run_id)["supervisor"]["pid"]

    def members(self, run_id: str) -> list[int]:
        """The processes of the run's current job."""
        job = self.run(run_id).tags.get(JOB_TAG)
        return [pid for node in (0, 1) for pid in processes.job_processes(f"{job}#node{node}")]

    def materializations(self, asset: str) -> list[dg.EventLogRecord]:
        return list(self.instance.fetch_materializations(dg.AssetKey(asset), limit=100).records)

    def leases(self) -> list[dict[str, Any]]:
        """The leases that hold on all hosts."""
        found = []
        for host in read_inventory(self.home).hosts:
            # A host that is gone holds nothing any more.
            with suppress(HostError):
                found += transport_to(host).call("leases", {}, seconds=15)["leases"]
        return found

    def story(self, run_id: str) -> str:
        """What the run and its worker said, for the message of a test that fails."""
        log = self.home / "aquarat" / "workers" / f"{run_id}.log"
        events = [
            f"{e.step_key or ''}: {e.user_message or (e.dagster_event and e.dagster_event.message)}"
            for e in self.instance.all_logs(run_id)
        ]
        return "\n".join(
            [f"status {self.run(run_id).status.value}", *events, log.read_text()[-4000:] if log.exists() else ""]
        )

    # --- ending ------------------------------------------------------------------------------------------------------

    def started(self) -> list[int]:
        """Living processes that descend from this cluster's."""
        return processes.processes_with_env("AQUARAT_TEST_CLUSTER", self.mark)

    def kill_everything(self) -> None:
        """The control host loses its power, and with it every process that runs here, but for jobs on other hosts."""
        for pid in self.started():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop_daemon(self) -> None:
        if self._daemon and self._daemon.poll() is None:
            os.killpg(self._daemon.pid, signal.SIGKILL)
            self._daemon.wait()

    def close(self) -> None:
        self.stop_daemon()
        self.kill_everything()
        for host in read_inventory(self.home).hosts:
            if host.transport == "ssh":
                SshTransport(host).close()
        self.instance.dispose()


class WebServer:
    """What a browser asks of Dagster's web server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def wait(self) -> None:
        """Until it is up."""
        wait_until(self._answers, 60, "the web server answers")

    def _answers(self) -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{self._url}/server_info", timeout=limit(10)).ok
        return False

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data that answers a GraphQL query."""
        answer = requests.post(f"{self._url}/graphql", json={"query": query, "variables": variables}, timeout=limit(30))
        answer.raise_for_status()
        assert "errors" not in answer.json(), answer.json()
        return answer.json()["data"]

    def terminate(self, run_id: str) -> None:
        """As the Terminate button does."""
        query = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"
        assert self.ask(query, run=run_id) == {"terminateRun": {"__typename": "TerminateRunSuccess"}}


@contextmanager
def ready_cluster(hosts: list[dict[str, Any]] | None = None, **rest: Any) -> Iterator[Cluster]:
    """A ready control host in a temporary directory, which goes with it; `rest` is for the `Cluster`."""
    with scratch_folder("cluster") as directory:
        cluster = Cluster(directory / "cluster", hosts=hosts, **rest)
        try:
            yield cluster.ready()
        finally:
            cluster.close()


def assert_survived(cluster: Cluster, run_id: str, asset: str, steps: int) -> dict[str, int]:
    """One materialization by this run, every step made, one writer at a time, nothing left; what was done twice."""
    assert cluster.wait(run_id) == "SUCCESS", cluster.story(run_id)
    made = [r for r in cluster.materializations(asset) if r.run_id == run_id]
    assert len(made) == 1, f"{asset} was materialized {len(made)} times"
    trace = cluster.trace(run_id, asset)
    assert sorted({mark["step"] for mark in trace}) == list(range(1, steps + 1))
    writers = [mark["pid"] for mark in trace]
    turns = [pid for i, pid in enumerate(writers) if i == 0 or writers[i - 1] != pid]
    assert len(turns) == len(set(turns)), f"two trainers wrote in turns: {turns}"
    store = ArtifactStore.open(cluster.store_uri)
    assert store.latest(asset).sha256 == made[0].asset_materialization.metadata["manifest_sha256"].value
    assert_nothing_left(cluster, run_id)
    return {"redone": len(trace) - steps, "trainers": len(turns)}


def assert_nothing_left(cluster: Cluster, run_id: str) -> None:
    """No lease, and no process of the run's job or its worker."""
    assert cluster.leases() == []
    wait_until(lambda: not cluster.members(run_id), 10, "the job's processes end")
    worker = worker_of(cluster.run(run_id).tags)
    wait_until(lambda: worker is None or not processes.is_alive(worker), 20, "the worker ends")
