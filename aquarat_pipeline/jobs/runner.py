"""Runs one stage to its end: one or several attempts, each placed, started and followed to its outcome.

The process that does this can die at any moment and be replaced: its state is in the job's folder (`attempts.py`), the
job runs under its own supervisor on its host, and the new process finds both.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from aquarat_core.agent.protocol import Succeeded
from aquarat_core.artifacts import ArtifactStore, StoreError
from aquarat_core.errors import UserError
from aquarat_core.stages.registry import Stage
from aquarat_pipeline._compat import DagsterExecutionInterruptedError
from aquarat_pipeline.home import DatabaseError
from aquarat_pipeline.hosts.allocator import SharedAllocator
from aquarat_pipeline.hosts.host import Host, InventoryError, RentedHost
from aquarat_pipeline.hosts.inventory import local_host, read_inventory
from aquarat_pipeline.hosts.occupancy import occupy, vacate
from aquarat_pipeline.hosts.queueing import Answer, Ticket, WaitReporter, remove_ticket, ticket, ticket_name
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.jobs import parking
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.jobs.avoided import AvoidedHosts
from aquarat_pipeline.jobs.commands import Launch
from aquarat_pipeline.jobs.following import Output
from aquarat_pipeline.jobs.outcome import JobOutcome, saved_state
from aquarat_pipeline.jobs.parking import Parked, Parking
from aquarat_pipeline.jobs.placement import NoHostError, Placement
from aquarat_pipeline.jobs.run_monitor import RunMonitor, is_resumed
from aquarat_pipeline.jobs.running import RunningJob
from aquarat_pipeline.jobs.spending import tag_run
from aquarat_pipeline.jobs.usage import UsageRecord
from aquarat_pipeline.renting.config import budget_micros
from aquarat_pipeline.renting.ordering.asking import Renting
from aquarat_pipeline.tags import JOB_TAG, LEASE_TAG
from aquarat_pipeline.workers import unpark

MAX_RESTARTS = 3
LOOK_SECONDS = 2.0
"""How often a step that waits says for what, if that has changed."""


class _OtherHostsError(Exception):
    """A host may still start this attempt together with others than those that are free now."""


class StageRunner:
    """Runs one step's attempts. `handle` gets the stage's Pipes messages, `say` reports what happens before the
    first."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        stage: Stage,
        attempt: Attempt,
        store: ArtifactStore,
        *,
        program: Sequence[str],
        pipes_env: Mapping[str, str],
        grace_seconds: float,
        handle: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
    ) -> None:
        self._instance = context.instance
        self._run = context.run
        self._log = context.log
        self._stage = stage
        self._attempt = attempt
        self._store = store
        self._program = program
        self._pipes_env = pipes_env
        self._handle = handle
        self._say = say
        self._home = Path(context.instance.root_directory)
        self._local = local_host(self._home).model_copy(update={"grace_seconds": grace_seconds})
        self._monitor = RunMonitor(context.instance, context.run.run_id)
        self._parking = Parking(context.instance, self._monitor.live_run)
        self._asset_key: dg.AssetKey = context.asset_key
        self._usage = UsageRecord(context.instance, context.run.run_id, attempt.spec.step_key, time.time)
        self._job: RunningJob | None = None
        self._avoided = AvoidedHosts()
        self._asked: Placement | None = None
        """The hosts that were last asked to run a job on a varying number of them."""
        self._restarts = 0
        self._waited = False

    def run(self) -> Succeeded:
        """The result of the stage. However this returns, no job is left without a watcher.

        Raises `dg.Failure` with the stage's own message if it fails, and Dagster's interrupt if it is cancelled.
        """
        try:
            outcome = self._run_attempts()
            self._monitor.check()
            return outcome.success(self._stage.name, MAX_RESTARTS + 1)
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            self._on_interrupt()
            raise
        except dg.Failure:
            raise
        except DatabaseError as e:
            # The job goes on, and the run gets another worker: it is still started, as far as Dagster knows.
            sys.stderr.write(f"{e}\n")
            sys.stderr.flush()
            os._exit(1)
        except BaseException as e:
            self._stop(f"its watcher failed: {e}")
            if isinstance(e, UserError):
                raise dg.Failure(str(e), allow_retries=False) from None
            raise

    def _run_attempts(self) -> JobOutcome:
        """The outcome of the last attempt: the first one that did not lose a host, or the last one allowed."""
        need = Requirement.of(self._stage, self._attempt.spec.config, self._run.tags)
        if (before := parking.read(self._home, self._run.run_id)) and before.stage == self._stage.name:
            self._restarts = before.restarts
            self._avoided.names.update(before.avoid)
        outcome = self._run_attempt(need)
        while outcome.deserves_another_attempt(need):
            # The end of a rental says nothing about the stage. It cannot go on forever: no job starts on such a host.
            self._restarts += not self._rental_ends()
            if self._restarts > MAX_RESTARTS:
                break
            again = f"Starting again from the saved state ({self._restarts}/{MAX_RESTARTS})"
            self._log.warning(f"{outcome.reason}. {again}")
            self._avoided.add(need, outcome.ending.host, gone=outcome.is_host_gone)
            if need.max_nodes is not None:
                self._free_the_others(outcome)
            self._next_attempt(outcome.reason)
            outcome = self._run_attempt(need)
        return outcome

    def _free_the_others(self, outcome: JobOutcome) -> None:
        """Waits until the hosts that are left have given back the attempt's leases: the next one does not wait for
        them, and would start on the first alone."""
        self._attempt.cancel(outcome.reason)
        if self._job:
            self._job.stop(without=outcome.ending.host if outcome.is_host_gone else None)

    def _rental_ends(self) -> bool:
        """Whether a host of the job was rented and its time is over, or nearly so, or it was given back already."""
        hosts = self._job.hosts if self._job else ()
        with suppress(InventoryError):
            listed = {host.name: host for host in read_inventory(self._home).hosts}
            if any(isinstance(host, RentedHost) and host.name not in listed for host in hosts):
                return True
            # The end may have been moved since the job started.
            hosts = tuple(listed.get(host.name, host) for host in hosts)
        return any(host.why_no_job(time.time()) for host in hosts)

    def _next_attempt(self, reason: str) -> None:
        """Cancels the attempt, which may still be running somewhere, and creates the next one."""
        self._job = None
        self._attempt.cancel(reason)
        self._attempt = self._attempt.next(self._instance, self._store)

    def _run_attempt(self, need: Requirement) -> JobOutcome:
        """One attempt: attaches to its running job, or places and starts it; then follows it to its outcome."""
        job = self._attach()
        if job is None and any(self._attempt.claims):
            # A worker died between the starts on several hosts.
            self._next_attempt("it was started on only some of its hosts")
        self._tag(JOB_TAG, self._attempt.folder.uri)
        while job is None:
            try:
                self._start(Launch(self._attempt, self._stage, need, self._program, self._pipes_env))
            except _OtherHostsError:
                self._next_attempt("it is started on other hosts")
                self._tag(JOB_TAG, self._attempt.folder.uri)
            job = self._attach()
        self._job = job
        if need.distributed:
            # Also for a job that a worker started which then died, maybe with its place in line.
            self._occupy(need, job.hosts)
            remove_ticket(self._home, self._ticket_name)
            self._tag(LEASE_TAG, ",".join(job.host_names))
            self._usage.begin(self._attempt.spec.attempt, job.hosts, need.gpus_on)
        output = Output(self._attempt, len(job.hosts), self._handle)
        if output.is_resumed:
            self._log.info(f"Attached to the running job {self._attempt.folder.uri} on {', '.join(job.host_names)}")
        self._say("loading")
        unpark(self._home, self._run.run_id)
        self._parking.begin()
        record = self._parked(self._attempt.folder.uri, job.host_names)

        def on_poll() -> None:
            self._monitor.check()
            self._parking.end_if_due(record)

        outcome = job.follow(output, on_poll)
        self._count_usage()
        return outcome

    def _attach(self) -> RunningJob | None:
        return RunningJob.attach(self._attempt, self._home, self._local)

    def _start(self, launch: Launch) -> None:
        """Starts the job here if it needs no GPU host; otherwise waits for hosts and starts it there."""
        if launch.need.distributed:
            self._acquire_hosts(launch)
            return
        try:
            self._start_on(Placement.on_one(launch, self._local))
        except NoHostError as e:
            raise dg.Failure(f"{self._stage.name} cannot be started here: {e.reason}") from None

    def _acquire_hosts(self, launch: Launch) -> None:
        """Waits in line for hosts and starts the job on them."""
        report_wait = WaitReporter(self._log.info)
        renting = Renting(self._home, self._run.run_id, self._stage.name, launch.need)
        self._waited = False
        with ExitStack() as stack:
            allocator = SharedAllocator(self._home)
            stack.callback(allocator.close)
            mine = stack.enter_context(self._ticket(launch.need))
            # Only now: between two workers, the record of the parked run keeps its place in line.
            unpark(self._home, self._run.run_id)
            self._parking.begin()
            while True:
                self._monitor.check()
                answer, refused = allocator.wait(mine, LOOK_SECONDS), False
                why = answer.why if answer else ""
                if answer and answer.hosts:
                    # A host may take its time to answer, and nobody else's turn depends on that.
                    allocator.close()
                    try:
                        return self._start_on_granted(launch, answer)
                    except NoHostError as e:
                        why, refused = str(e), True
                        mine.refuse(answer.number, e.refused)
                if not why:
                    continue
                self._waited = True
                lasting = ""
                if notice := renting.notice():
                    why = f"{why if refused else launch.need}: {notice.text}"
                    lasting = notice.lasting(time.time())
                self._say(f"waiting for {why}{lasting}")
                report_wait(why, lasting)
                if not notice and not refused:
                    self._parking.end_if_due(self._parked())

    def _ticket(self, need: Requirement) -> AbstractContextManager[Ticket]:
        budget = budget_micros(self._run.tags)
        return ticket(self._home, self._run.run_id, self._stage.name, self._created, need, budget, self._avoided.names)

    def _start_on_granted(self, launch: Launch, answer: Answer) -> None:
        """Starts the job on the hosts that it was given. Raises `NoHostError`."""
        known = {host.name: host for host in read_inventory(self._home).hosts}
        if gone := [name for name in answer.hosts if name not in known]:
            raise NoHostError(f"{launch.need}: {gone[0]} is no longer in the inventory")
        hosts = [known[name] for name in answer.hosts]
        self._occupy(launch.need, hosts)
        several = launch.need.most_nodes > 1
        try:
            self._start_on(Placement.on_several(launch, hosts) if several else Placement.on_one(launch, hosts[0]))
        except BaseException as e:
            # A host may have started it, even if this process is stopped here: then it is refused as long as it runs.
            vacate(self._home, self._ticket_name)
            if isinstance(e, NoHostError):
                raise NoHostError(f"{launch.need}: {e}" if not several else str(e), e.refused) from None
            raise

    def _occupy(self, need: Requirement, hosts: Sequence[Host]) -> None:
        """Records that the hosts are taken, until `_count_usage`."""
        spec, taken = self._attempt.spec, [(host.name, need.gpus_on(host)) for host in hosts]
        occupy(self._home, self._ticket_name, spec.run_id, self._stage.name, self._attempt.folder.uri, taken)

    def _parked(self, job: str | None = None, hosts: Sequence[str] = ()) -> Parked:
        """What the follower must know if this worker ends now."""
        asset, avoid = tuple(self._asset_key.path), tuple(sorted(self._avoided.names))
        return Parked(
            self._run.run_id, self._stage.name, asset, self._ticket_name, job, tuple(hosts), self._restarts, avoid
        )

    @cached_property
    def _created(self) -> float:
        """When the run was created, in seconds since 1970."""
        record = self._instance.get_run_record_by_id(self._run.run_id)
        return record.create_timestamp.timestamp() if record else time.time()

    @cached_property
    def _ticket_name(self) -> str:
        return ticket_name(self._run.run_id, self._stage.name, self._created)

    def _start_on(self, placement: Placement) -> None:
        self._monitor.check(now=True)
        need = placement.launch.need
        if need.max_nodes is not None:
            self._refuse_other_hosts(placement)
            # It may have got fewer than it was given.
            self._occupy(need, placement.hosts)
        # A waiting job is refused every few seconds, and a line before each try would bury the reason.
        if not self._waited:
            self._say(f"starting {placement}")
        try:
            placement.start()
        except NoHostError as e:
            if need.max_nodes is not None:
                for name in e.refused:
                    self._avoided.add(need, name, gone=True)
            raise
        if self._waited:
            self._say(f"starting {placement}")

    def _refuse_other_hosts(self, placement: Placement) -> None:
        """Raises `_OtherHostsError` if the attempt may have been started on other hosts, which would wait for as many
        ranks as there were then."""
        asked, names = self._attempt.nodes, [host.name for host in placement.hosts]
        if asked and asked != names and (len(asked) != len(names) or any(self._attempt.claims)):
            for one in filter(None, (self._asked, placement)):
                one.release()
            self._asked = None
            raise _OtherHostsError
        self._asked = placement

    def _on_interrupt(self) -> None:
        """Ends the job if the run was cancelled; if only this worker was stopped, leaves the job to the next worker."""
        run = self._monitor.live_run()
        if run and is_resumed(run):
            self._log.info("This worker was stopped. The job continues, and the next worker attaches to it.")
            return
        if run:
            # Otherwise the monitoring daemon would think that an interrupted command died, and resume its run.
            self._instance.report_run_canceling(run)
        self._stop("the run was cancelled")
        self._log.warning(f"stopped. {saved_state(self._attempt)}")

    def _stop(self, reason: str) -> None:
        with suppress(StoreError):
            self._attempt.cancel(reason)
        unconfirmed = self._job.stop() if self._job else []
        self._count_usage()
        if unconfirmed:
            names = ", ".join(unconfirmed)
            self._log.warning(f"{names} did not confirm that the job ended: without the store, it stops by itself")

    def _count_usage(self) -> None:
        """The attempt uses its hosts no longer: they are free, and the run's tags say what it has cost so far."""
        vacate(self._home, self._ticket_name)
        # What it cost may not be counted, but a stage that took hours must not be lost for that.
        with suppress(UserError, OSError):
            if self._usage.end():
                tag_run(self._instance, self._run.run_id, time.time())

    def _tag(self, name: str, value: str) -> None:
        self._instance.add_run_tags(self._run.run_id, {name: value})
