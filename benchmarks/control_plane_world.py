"""What `control_plane` simulates, in virtual time: the way to the hosts, supervisors with their heartbeats, workers.

A worker does what it would between two waits, in this process.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dagster as dg
import yaml

from aquarat_core.agent import leases, processes
from aquarat_core.agent.protocol import LeaseRequest
from aquarat_core.artifacts import ArtifactStore, CodeVersion, JobDir
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline._compat import DagsterEvent
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.hosts.occupancy import occupy, vacate
from aquarat_pipeline.hosts.queueing import Ticket, read_answer, remove_ticket, ticket
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import parking
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.jobs.commands import Launch, job_request
from aquarat_pipeline.jobs.parking import Parked
from aquarat_pipeline.jobs.placement import NoHostError, Placement
from aquarat_pipeline.runs.launcher import GpuRunLauncher
from aquarat_pipeline.runs.origin import job_origin
from aquarat_pipeline.runs.submit import definitions
from aquarat_pipeline.tags import WORKER_TAG
from aquarat_pipeline.workers import Worker, only_worker, show_alive, unpark

STAGE = STAGES["sft_checkpoint"]
MODULE = "tests.launching.definitions"
HEARTBEAT = 5.0
MONITOR_SECONDS = 10.0
HOLD_SECONDS = 120.0
"""Virtual seconds for which all jobs run at once, and the control host's work is measured."""
JOB_SECONDS = (60.0, 120.0)
WORKER_SECONDS = 5.0
"""What a worker that is woken takes to come up."""
AWAY, SLOW = 0.01, 0.01
"""Shares of calls to a host that fail, and that take ten seconds longer."""
MAX_HOSTS = 1000


class Inline(Executor):
    """Does everything at once, because virtual time does not pass in threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as e:
            done.set_exception(e)
        return done


class SimulatedLauncher(GpuRunLauncher):
    """Starts no process: the world does what a worker would do."""

    def _start_worker(self, run: dg.DagsterRun, command: Any, how: str, park_after: float | None = None) -> Worker:
        who: Any = {"kind": "launcher", "host": os.uname().nodename, "boot": "none", "pid": 1, "started": 0}
        self._instance.add_run_tags(run.run_id, {WORKER_TAG: json.dumps(who)})
        world = World.here
        assert world is not None
        world.at(WORKER_SECONDS, lambda: world.work(run.run_id))
        return cast("Worker", {**who, **world.me})


@dataclass
class Clocked:
    """CPU seconds and calls by what they were for."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))

    @contextmanager
    def of(self, what: str) -> Generator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds[what] += time.process_time() - began


@dataclass
class Run:
    """What the world knows of a run."""

    number: int
    attempt: Attempt | None = None
    queued: float = 0.0
    began: float | None = None
    host: str | None = None
    over: bool = False
    """Its job has ended."""
    ended: bool = False


class World:
    """Everything that is simulated, and the processes that are real but run here, one after the other."""

    here: World | None = None

    def __init__(self, home: Path, size: int, workers: int, seed: int = 0) -> None:
        """`workers`: how many workers may be woken at once."""
        World.here = self
        self.home, self.size, self.workers = home, size, workers
        self.me: Any = processes.identity(os.getpid())
        self.rng = random.Random(seed)
        self.seconds = 0.0
        self.cpu = Clocked()
        self.ops: Counter[str] = Counter()
        self.counting = True
        self.runs: dict[str, Run] = {}
        self.gpus: Counter[str] = Counter()
        self.freed: dict[str, float] = {}
        self.idle: list[float] = []
        self.order: list[Run] = []
        """Runs in the order in which they began."""
        self.wrong: list[str] = []
        self.holding = False
        self.ended = self.refused = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._kept: list[Any] = []
        self.store = ArtifactStore.open(f"memory://control-plane-{os.getpid()}")
        self.instance = self._instance()

    def _instance(self) -> dg.DagsterInstance:
        launcher = {"park_after_seconds": 30.0, "max_workers": self.workers}
        settings = {
            "telemetry": {"enabled": False},
            "run_launcher": {"module": __name__, "class": "SimulatedLauncher", "config": launcher},
            "run_queue": {"max_concurrent_runs": -1, "dequeue_use_threads": True, "dequeue_num_workers": 4},
            "run_monitoring": {"enabled": True, "poll_interval_seconds": int(MONITOR_SECONDS)},
        }
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        return dg.DagsterInstance.from_config(str(self.home))

    def write_hosts(self, slots: int) -> None:
        """So many GPUs, on at most `MAX_HOSTS` hosts."""
        each = -(-slots // MAX_HOSTS)
        hosts: list[dict[str, Any]] = []
        for number in range(-(-slots // each)):
            root = self.home / "roots" / f"h{number}"
            root.mkdir(parents=True, exist_ok=True)
            hosts.append({"name": f"h{number}", "address": "x", "gpus": each, "max_leases": each, "root": str(root)})
        (self.home / "hosts.yaml").write_text(yaml.safe_dump({"hosts": hosts}))

    def create_runs(self, count: int) -> None:
        """Queues runs of the same asset, as `aquarat launch` does once it has checked them."""
        repository = definitions()
        definition = repository.get_definition()
        key = dg.AssetKey(STAGE.name)
        job = definition.get_implicit_job_def_for_assets([key])
        assert job is not None
        location = {"python_module": {"module_name": MODULE, "location_name": "toys"}}
        workspace = self.home / "workspace.yaml"
        workspace.write_text(yaml.safe_dump({"load_from": [location]}))
        origin = job_origin(job.name, definition.name, workspace)
        code = repository.get_reconstructable_job(job.name).get_python_origin()
        for number in range(count):
            run = self.instance.create_run_for_job(
                job_def=job,
                asset_selection=frozenset({key}),
                remote_job_origin=origin,
                job_code_origin=code,
            )
            self.runs[run.run_id] = Run(number)
            self.instance.submit_run(run.run_id, workspace=None)  # pyright: ignore[reportArgumentType]

    def now(self) -> float:
        return self.seconds

    def at(self, after: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.seconds + after, next(self._numbers), do))

    def advance(self, seconds: float) -> None:
        """Lets virtual time pass; what the simulation itself does is not counted."""
        end = self.seconds + seconds
        while self._events and self._events[0][0] <= end:
            self.seconds, _, do = heapq.heappop(self._events)
            do()
        self.seconds = end

    # --- workers -------------------------------------------------------------------------------------------------

    def work(self, run_id: str) -> None:
        """What a worker does from its start until its run is parked or has ended."""
        run = self.runs[run_id]
        if run.attempt is None:
            dagster_run = self.instance.get_run_by_id(run_id)
            assert dagster_run is not None
            self._report(dagster_run, dg.DagsterEventType.RUN_START)
            run.attempt = Attempt.create(self.instance, self.store, self._spec(run_id), 0, {})
            run.queued = self.seconds
            with only_worker(self.home, run_id, "the bench"):
                show_alive(self.home, run_id)  # the lock of a worker stays when it ends
        if run.began is not None:
            self._finish(run_id, run)
            return
        with self.cpu.of("placement"):
            answer = read_answer(self.home, self._ticket_name(run_id))
            mine = self._take_ticket(run_id, run)
            if answer and answer.hosts and answer.since == mine.record.since:
                self._start(run_id, run, mine, answer.hosts, answer.number)
            self._park(run_id, run)

    def _take_ticket(self, run_id: str, run: Run) -> Ticket:
        context = ticket(self.home, run_id, STAGE.name, float(run.number), Requirement(True, device="cuda"))
        self._kept.append(context)  # its end would remove the ticket, which a parked run leaves behind
        return context.__enter__()

    def _ticket_name(self, run_id: str) -> str:
        return f"{float(self.runs[run_id].number):017.3f}-{run_id}-{STAGE.name}"

    def _start(self, run_id: str, run: Run, mine: Ticket, hosts: tuple[str, ...], number: int) -> None:
        known = {host.name: host for host in read_inventory(self.home).hosts}
        assert run.attempt is not None
        occupy(self.home, mine.name, run_id, STAGE.name, run.attempt.folder.uri, [(hosts[0], 1)])
        launch = Launch(run.attempt, STAGE, mine.record.need, ("-m", "program"), {})
        try:
            Placement.on_one(launch, known[hosts[0]]).start()
        except NoHostError as e:
            vacate(self.home, mine.name)
            mine.refuse(number, e.refused)
        else:
            remove_ticket(self.home, mine.name)

    def _park(self, run_id: str, run: Run) -> None:
        assert run.attempt is not None
        job = run.attempt.folder.uri if run.began is not None else None
        hosts = (run.host,) if run.host and job else ()
        name = self._ticket_name(run_id)
        unpark(self.home, run_id)
        parking.write(self.home, Parked(run_id, STAGE.name, (STAGE.name,), name, job, hosts))

    def _finish(self, run_id: str, run: Run) -> None:
        vacate(self.home, self._ticket_name(run_id))
        unpark(self.home, run_id)
        run.ended = True
        self.ended += 1
        dagster_run = self.instance.get_run_by_id(run_id)
        assert dagster_run is not None
        self._report(dagster_run, dg.DagsterEventType.RUN_SUCCESS)

    def _report(self, run: dg.DagsterRun, what: dg.DagsterEventType) -> None:
        self.instance.report_dagster_event(DagsterEvent(what.value, run.job_name), run.run_id)

    def _spec(self, run_id: str) -> StageSpec:
        return StageSpec(
            stage=STAGE.name, store=self.store.uri, profile="demo", config=None, inputs={},
            code=CodeVersion(version="v"), run_id=run_id, step_key=STAGE.name,
        )  # fmt: skip

    # --- hosts ---------------------------------------------------------------------------------------------------

    def call(self, host: Host, command: str, request: Any) -> dict[str, Any]:
        """The reply of a host's agent, whose leases are real."""
        if self.rng.random() < AWAY:
            raise HostError(f"{host.name} cannot be reached")
        root = Path(host.root)
        assert command == "start", command
        with leases.locked(root):
            lease = leases.acquire(root, cast("LeaseRequest", {**request, "ttl": 1e9}))
        if "busy" in lease:
            self.refused += 1
            return {"state": "busy", "reason": lease["busy"], "held": lease["held"]}
        folder = JobDir.at(request["job"])
        run_id = request["owner"]
        run = self.runs[run_id]
        if not folder.create_json("claim/node0.json", {"host": host.name, "boot": "b"}):
            self.wrong.append(f"{run_id} was started twice")
        self._begin(host, run_id, run)
        return {"state": "started", "gpus": lease["gpus"]}

    def _begin(self, host: Host, run_id: str, run: Run) -> None:
        self.gpus[host.name] += 1
        if self.gpus[host.name] > host.gpus:
            self.wrong.append(f"{host.name} has {self.gpus[host.name]} jobs for {host.gpus} GPUs")
        if run.began is not None or run.ended:
            self.wrong.append(f"{run_id} runs twice")
        delay = 10.0 if self.rng.random() < SLOW else 0.0
        run.began, run.host = self.seconds, host.name
        if (free := self.freed.pop(host.name, None)) is not None:
            self.idle.append(self.seconds - free)
        self.order.append(run)
        self.at(delay + self.rng.uniform(0, HEARTBEAT), lambda: self._beat(run_id, 1))
        self.at(self.rng.uniform(*JOB_SECONDS), lambda: self._end(run_id, host))

    def _status(self, run: Run, sequence: int, **more: Any) -> None:
        assert run.attempt is not None
        common = {"node": 0, "host": run.host, "sequence": sequence, "chunks": 0}
        with self.simulated():
            run.attempt.folder.write_json("status/node0.json", {**common, **more})

    def _beat(self, run_id: str, sequence: int) -> None:
        run = self.runs[run_id]
        if run.over:
            return
        who = {"boot": "b", "pid": 1, "started": 1}
        self._status(run, sequence, state="running", supervisor=who)
        self.at(HEARTBEAT, lambda: self._beat(run_id, sequence + 1))

    def _end(self, run_id: str, host: Host) -> None:
        if self.holding:
            self.at(HOLD_SECONDS, lambda: self._end(run_id, host))
            return
        run = self.runs[run_id]
        assert run.attempt is not None
        run.over = True
        self.gpus[host.name] -= 1
        self.freed[host.name] = self.seconds
        leases.drop(Path(host.root), job_request(run.attempt, 0)["id"])
        ended: dict[str, Any] = {
            "code": 0,
            "signal": None,
            "launcher_failed": False,
            "reason": None,
            "complete": True,
            "tail": [],
        }
        self._status(run, 10**6, state="ended", **ended)

    @contextmanager
    def simulated(self) -> Generator[None]:
        before, self.counting = self.counting, False
        try:
            yield
        finally:
            self.counting = before


class Transport:
    """The way to a host of the world."""

    def __init__(self, world: World, host: Host) -> None:
        self._world, self._host = world, host

    def call(self, command: str, request: Any, seconds: float = 0.0) -> dict[str, Any]:
        return self._world.call(self._host, command, request)
