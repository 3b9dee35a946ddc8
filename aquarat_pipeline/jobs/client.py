"""The Pipes client that sees one stage through: attaches to its running job or starts one, follows it, collects.

It can die at any moment and be replaced: all it knows lies in the job's folder (`attempts.py`), the job runs under a
supervisor of its own on its host, and whoever takes over finds both. No stage ever runs in a Dagster process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg

from aquarat_core.artifacts import ArtifactStore, StoreError
from aquarat_core.errors import UserError
from aquarat_core.plain_text import fenced, printable
from aquarat_core.stages.registry import Stage
from aquarat_pipeline._compat import DagsterExecutionInterruptedError
from aquarat_pipeline.hosts.credentials import RENEW_SECONDS, host_token
from aquarat_pipeline.hosts.inventory import Host, local_host, read_inventory
from aquarat_pipeline.hosts.transports import HostError, transport_to
from aquarat_pipeline.jobs import commands
from aquarat_pipeline.jobs.attempts import Attempt, Job
from aquarat_pipeline.jobs.following import Ending, Output, follow
from aquarat_pipeline.jobs.placement import POLL_SECONDS, Requirement, Waiting, candidates, ticket
from aquarat_pipeline.jobs.progress import Ahead, Message, Observations, display
from aquarat_pipeline.tags import JOB_TAG, LEASE_TAG
from aquarat_pipeline.workers import show_alive, worker_of

MOST_RESTARTS = 3
CHECK_RUN_SECONDS = 5.0
STOP_SECONDS = 25.0
_STOPPED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)


class StageInvocation(dg.PipesClientCompletedInvocation):
    """A stage that has finished; `result` is the content of its `result.json`."""

    def __init__(self, session: dg.PipesSession, result: dict[str, Any]) -> None:
        super().__init__(session)
        self.result = result


class TorchrunPipesClient(dg.PipesClient):
    """Runs stages on the hosts of the inventory, and those that need no GPU host on this one.

    `program` is what Python starts with the URI of a spec; a stage that is stopped here has `grace_seconds` to end.
    """

    def __init__(self, program: Sequence[str] = ("-m", "aquarat_core.stages.run"), grace_seconds: float = 30.0) -> None:
        self._program = tuple(program)
        self._grace = grace_seconds

    def run(  # type: ignore[override]
        self,
        *,
        context: dg.AssetExecutionContext,
        stage: Stage,
        attempt: Attempt,
        store: ArtifactStore,
        ahead: Ahead | None = None,
        extras: Any = None,
    ) -> StageInvocation:
        """Sees `attempt`, or those that follow it where hosts are lost, to the end.

        Raises `dg.Failure` with the stage's own message when it fails, and Dagster's interrupt when it is cancelled.
        """
        with display(stage.name, ahead) as show:
            reader = _Reader([show, Observations(context)])
            with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), reader, extras=extras) as session:
                job = _Job(context, stage, attempt, store, self._program, self._grace, session, reader.handle, show.say)
                result = job.see_through()
        return StageInvocation(session, result)


class _Job:
    """One stage's way through its attempts."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        stage: Stage,
        attempt: Attempt,
        store: ArtifactStore,
        program: Sequence[str],
        grace: float,
        session: dg.PipesSession,
        handle: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._context = context
        self._stage = stage
        self._attempt = attempt
        self._store = store
        self._program = program
        self._handle = handle
        self._messages = session.get_bootstrap_env_vars()
        self._home = Path(context.instance.root_directory)
        self._local = local_host(self._home).model_copy(update={"grace_seconds": grace})
        self._hosts: list[Host] = []
        self._avoid: set[str] = set()
        self._tokens: dict[int, str] = {}
        """What each node's token was last renewed to."""
        self._checked = self._renewed = time.monotonic()

    def see_through(self) -> dict[str, Any]:
        try:
            need = Requirement.of(self._stage, self._attempt.spec.config, self._context.run.tags)
            for restart in range(MOST_RESTARTS + 1):
                ending = self._serve(need)
                result = self._attempt.folder.read_json("result.json")
                lost = _lost(ending, result)
                if lost is None or restart == MOST_RESTARTS:
                    self._check_run()
                    return self._collect(ending, result)
                self._context.log.warning(f"{lost}. Starting again from what is saved ({restart + 1}/{MOST_RESTARTS})")
                self._attempt.cancel(lost)
                self._avoid.update({ending.host} if ending.host else ())
                self._attempt = self._attempt.next(self._context.instance, self._store)
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            self._interrupted()
            raise
        except dg.Failure:
            raise
        except BaseException as e:
            # Whatever went wrong here, nobody would watch the job any more.
            self._stop(f"its watcher failed: {e}")
            if isinstance(e, UserError):
                raise dg.Failure(str(e), allow_retries=False) from None
            raise
        raise AssertionError("unreachable")

    def _serve(self, need: Requirement) -> Ending:
        self._tag({JOB_TAG: self._attempt.folder.uri})
        while not self._attach():
            if need.distributed:
                self._place(need)
            else:
                self._start([self._local], need)
        names = [host.name for host in self._hosts]
        self._tag({LEASE_TAG: ",".join(names)} if need.distributed else {})
        output = Output(self._attempt, len(self._hosts), self._handle)
        if output.is_resumed:
            self._context.log.info(f"Attached to the running job {self._attempt.folder.uri} on {', '.join(names)}")
        self._renewed = time.monotonic()
        self._say("loading")
        return follow(self._attempt, self._hosts, output, self._attend)

    def _attach(self) -> bool:
        """Whether the attempt was started; its hosts then are those that claimed it."""
        names = self._attempt.nodes
        claims = [self._attempt.claim(node) for node in range(len(names))]
        if not claims or not all(claims):
            if any(claims):
                # A worker died between the starts on several hosts.
                self._attempt.cancel("it was started on some of its hosts only")
                self._attempt = self._attempt.next(self._context.instance, self._store)
            return False
        known = {host.name: host for host in (*read_inventory(self._home).hosts, self._local)}
        # A host that was taken out of the inventory can still be followed through the store.
        self._hosts = [
            known.get(claim["host"]) or self._local.model_copy(update={"name": claim["host"]}) for claim in claims
        ]
        return True

    def _place(self, need: Requirement) -> None:
        """Waits in line for hosts and starts the job on them."""
        run = self._context.run
        record = self._context.instance.get_run_record_by_id(run.run_id)
        since = record.create_timestamp.timestamp() if record else time.time()
        waiting = Waiting(self._context.log.info)
        with ticket(self._home, f"{run.run_id}-{self._stage.name}", since) as mine:
            while True:
                self._check_run()
                hosts, why = candidates(self._home, need, mine, self._avoid)
                if hosts:
                    why = self._try(hosts, need)
                    if why is None:
                        return
                self._say(f"waiting for {why}")
                waiting(why)
                time.sleep(POLL_SECONDS)

    def _try(self, hosts: list[Host], need: Requirement) -> str | None:
        """Starts the job on the first hosts that take it; None, or why none did."""
        if need.nodes == 1:
            reasons = []
            for host in hosts:
                reason = self._start([host], need)
                if reason is None:
                    return None
                reasons.append(f"{host.name}: {reason}")
            return f"{need}: {'; '.join(reasons)}"
        # In the order of their names, so that two jobs never hold half each and wait for the other's.
        taken: list[Host] = []
        reasons = []
        for host in sorted(hosts, key=lambda host: host.name):
            if len(taken) == need.nodes:
                break
            try:
                answer = self._call(host, "reserve", commands.lease(self._attempt, self._stage, host, need, 0))
            except HostError as e:
                answer = {"state": "unreachable", "reason": str(e)}
            if answer["state"] == "reserved":
                taken.append(host)
            else:
                reasons.append(f"{host.name}: {answer['reason']}")
        if len(taken) == need.nodes:
            return self._start(taken, need)
        for host in taken:
            with suppress(HostError):
                self._call(host, "stop", commands.identity(self._attempt, 0))
        return f"{need}: {'; '.join(reasons)}"

    def _start(self, hosts: list[Host], need: Requirement) -> str | None:
        """Asks every host to start its part; None once all have, or why one has not."""
        self._check_run(now=True)
        ranks = f"{need.ranks} {'rank' if need.ranks == 1 else 'ranks'} on " if need.distributed else "on "
        self._say(f"starting {ranks}{', '.join(host.name for host in hosts)}")
        self._attempt.assign([host.name for host in hosts])
        for node, host in enumerate(hosts):
            try:
                order = commands.start(
                    self._attempt, self._stage, hosts, node, need, program=self._program, messages=self._messages
                )
                answer = self._call(host, "start", order)
            except HostError as e:
                # The host may have heard even if its answer was lost: the claim tells.
                answer = {"state": "unreachable", "reason": str(e)}
            if answer["state"] in ("busy", "full", "unreachable") and not self._attempt.claim(node):
                if host is self._local:
                    raise dg.Failure(f"{self._stage.name} cannot be started here: {answer['reason']}")
                return answer["reason"]
        return None

    def _call(self, host: Host, command: str, given: dict[str, Any]) -> dict[str, Any]:
        return transport_to(host).call(command, given)

    def _check_run(self, now: bool = False) -> None:
        """Raises Dagster's interrupt if the run was cancelled or failed meanwhile, whoever did that."""
        if not now and time.monotonic() - self._checked < CHECK_RUN_SECONDS:
            return
        self._checked = time.monotonic()
        show_alive(self._home, self._context.run.run_id)
        run = self._context.instance.get_run_by_id(self._context.run.run_id)
        if run is None or run.status in _STOPPED:
            raise DagsterExecutionInterruptedError()

    def _attend(self) -> None:
        """What a running job needs of its watcher now and then: that the run still wants it, and a fresh token."""
        self._check_run()
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        for node, host in enumerate(self._hosts):
            # A host that is out of reach now keeps its old token for a while, and gets the next one.
            with suppress(HostError):
                token = host_token(self._attempt)
                if token and token["token"] != self._tokens.get(node):
                    self._call(host, "renew", {**commands.identity(self._attempt, node), "token": token})
                    self._tokens[node] = token["token"]

    def _interrupted(self) -> None:
        """Cancelled means that the job ends; a worker that is merely stopped leaves it to the next."""
        instance = self._context.instance
        run = instance.get_run_by_id(self._context.run.run_id)
        worker = worker_of(run.tags) if run else None
        if run and run.status not in _STOPPED:
            if worker and worker["kind"] == "launcher":
                self._context.log.info("This worker was stopped. The job goes on, and the next worker attaches to it.")
                return
            # Else the monitoring daemon would take an interrupted command for a dead one, and resume its run.
            instance.report_run_canceling(run)
        self._stop("the run was cancelled")
        self._context.log.warning(f"stopped. {left_by(self._attempt)}")

    def _stop(self, reason: str) -> None:
        with suppress(StoreError):
            self._attempt.cancel(reason)
        asked = [node for node, host in enumerate(self._hosts) if not self._is_over(node, host)]
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            nodes = [self._attempt.status(node) for node in asked]
            if all(status and status["state"] == "ended" for status in nodes):
                return
            time.sleep(0.1)
        names = ", ".join(self._hosts[node].name for node in asked)
        self._context.log.warning(f"{names} did not confirm that the job ended: without the store it stops by itself")

    def _is_over(self, node: int, host: Host) -> bool:
        """Asks the host to end the job; whether it says that nothing of it is left, for want of a supervisor."""
        try:
            answer = transport_to(host).call("stop", commands.identity(self._attempt, node), seconds=10)
        except HostError:
            return False
        return answer["state"] == "stopped" and not answer["survivors"]

    def _collect(self, ending: Ending, result: dict[str, Any] | None) -> dict[str, Any]:
        if result and result["ok"] and (ending.code or 0) <= 0:
            return result
        raise _failure(self._stage, ending, result)

    def _tag(self, tags: Mapping[str, str]) -> None:
        if tags:
            self._context.instance.add_run_tags(self._context.run.run_id, dict(tags))


class _Reader(dg.PipesMessageReader):
    """Takes messages from whoever follows the job: progress goes to `sinks`, everything else Pipes' usual way.

    The stage's process may open and close its side more than once, by being started again; to Dagster it does once.
    """

    expected_writer_count = 1

    def __init__(self, sinks: list[Callable[[Message], None]]) -> None:
        self._sinks = sinks
        self._handler: dg.PipesMessageHandler | None = None

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[dict[str, Any]]:
        self._handler = handler
        handler.handle_message({"method": "opened", "params": {"extras": {}}})  # type: ignore[typeddict-item]
        try:
            yield {}
        finally:
            # Also when the stage failed or was stopped: else Dagster warns of messages that may be missing.
            handler.handle_message({"method": "closed", "params": {}})  # type: ignore[typeddict-item]

    def handle(self, message: dict[str, Any]) -> None:
        """One message as the stage's process wrote it."""
        message = _printable(message)
        if message["method"] in ("opened", "closed"):
            return
        payload = (message["params"] or {}).get("payload")
        if isinstance(payload, dict) and payload.get("aquarat") == "progress":
            for sink in self._sinks:
                sink(payload)
        else:
            assert self._handler is not None
            self._handler.handle_message(message)  # type: ignore[arg-type]

    def no_messages_debug_text(self) -> str:
        return "The stage's messages come from its job's folder in the store."


def _printable(value: Any) -> Any:
    """A message with all its texts made harmless: Dagster writes them to terminals and shows them in the UI."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    return value


def left_by(job: Job) -> str:
    """What a stopped job leaves to go on from, in a sentence."""
    result = None
    with suppress(StoreError):
        result = job.folder.read_json("result.json")
    if result and not result["ok"] and result["error"]["type"] == "Stopped":
        return f"The stage was {printable(result['error']['message'])}: run it again to go on from there."
    return "Run it again: it goes on from the last state that it saved, or from its start if there is none."


def _lost(ending: Ending, result: dict[str, Any] | None) -> str | None:
    """Why the attempt says nothing about the stage, and another host may do better."""
    if result and result["ok"]:
        return None
    if result and "No space left on device" in result["error"]["message"]:
        return f"{ending.host}: its disk is full"
    if result and result["error"]["user"]:
        return None
    if ending.lost is None and not ending.cancelled and result and result["error"]["type"] == "Stopped":
        return f"{ending.host}: the stage was sent SIGTERM, and saved its state"
    return ending.lost


def _failure(stage: Stage, ending: Ending, result: dict[str, Any] | None) -> dg.Failure:
    metadata = {"last_lines": dg.MetadataValue.md(fenced(ending.last_lines))}
    if result and not result["ok"]:
        error = result["error"]
        text = printable(error["message"] if error["user"] else f"{error['type']}: {error['message']}")
        return dg.Failure(f"{stage.name}: {text}", metadata=metadata, allow_retries=not error["user"])
    how = f"was stopped {MOST_RESTARTS + 1} times, at last because {ending.lost}" if ending.lost else ""
    how = how or f"ended with exit code {ending.code} without saying why"
    return dg.Failure(f"{stage.name} {how}. Its last lines:\n{printable(ending.last_lines)}", metadata=metadata)
