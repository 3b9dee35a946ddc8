"""The Pipes client that runs one stage: torchrun where it is distributed, one process where it is not.

Spec and result travel through the job's folder in the store, messages through a file, rank 0's output through a pipe
to the step's own stderr, where Dagster captures it. No stage ever runs in a Dagster process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

import dagster as dg

from aquarat_core.artifacts import JobDir
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.registry import Stage
from aquarat_pipeline.launching import processes
from aquarat_pipeline.launching.progress import Message, Observations, display

TAIL_LINES = 40
DRAIN_SECONDS = 5.0


class StageInvocation(dg.PipesClientCompletedInvocation):
    """A stage that has finished; `result` is the content of its `result.json`."""

    def __init__(self, session: dg.PipesSession, result: dict[str, Any]) -> None:
        super().__init__(session)
        self.result = result


class TorchrunPipesClient(dg.PipesClient):
    """Runs stages on this host.

    `program` is what Python starts with the URI of a spec; a stage that is stopped has `grace_seconds` to end itself.
    """

    def __init__(self, program: Sequence[str] = ("-m", "aquarat_core.stages.run"), grace_seconds: float = 10.0) -> None:
        self._program = tuple(program)
        self._grace = grace_seconds

    def run(  # type: ignore[override]
        self, *, context: dg.AssetExecutionContext, stage: Stage, spec: StageSpec, job: JobDir, extras: Any = None
    ) -> StageInvocation:
        """Runs `spec` to its end. Raises `dg.Failure` with the stage's own message when it fails."""
        if not job.create_json("spec.json", spec.model_dump(mode="json")):
            raise dg.Failure(f"{job.uri} was already started: run the asset again", allow_retries=False)
        with display(stage.name) as show:
            reader = _Reader([show, Observations(context)])
            with (
                tempfile.TemporaryDirectory(prefix="aquarat-job-") as scratch,
                dg.open_pipes_session(context, dg.PipesTempFileContextInjector(), reader, extras=extras) as session,
            ):
                launch = (spec.config or {}).get("launch", {})
                command = self._command(stage, launch, f"{job.uri}/spec.json", scratch)
                env = {
                    # All ranks are on this host: gloo need not listen on any other interface.
                    "GLOO_SOCKET_IFNAME": "lo",
                    **os.environ,
                    **session.get_bootstrap_env_vars(),
                    "OMP_NUM_THREADS": str(launch.get("threads", 1)),
                }
                with processes.running(command, job.uri, env, self._grace) as process:
                    output = _Output(process, ranks=stage.distributed)
                    code = process.wait()
                    output.drain()
        result = job.read_json("result.json")
        if code or not result or not result["ok"]:
            raise _failure(stage, code, result, output)
        return StageInvocation(session, result)

    def _command(self, stage: Stage, launch: dict[str, Any], spec_uri: str, scratch: str) -> list[str]:
        python = [sys.executable, "-u"]
        if not stage.distributed:
            return [*python, *self._program, spec_uri]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(launch.get("nproc", 1))]
        # --tee marks each line with its rank, so that rank 0's can be told from torchrun's own.
        return [*python, *torchrun, "--tee", "3", "--log-dir", scratch, *self._program, spec_uri]


class _Output:
    """Copies a stage's log lines (of ranks, rank 0's) to stderr and remembers the last ones of all ranks."""

    _RANK = re.compile(r"\[default(\d+)\]:")

    def __init__(self, process: subprocess.Popen[str], ranks: bool) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.launcher_tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._ranks = ranks
        self._thread = Thread(target=self._copy, args=(process,), daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Waits for the last lines; a process that outlived the stage may hold the pipe open, so not for ever."""
        self._thread.join(DRAIN_SECONDS)

    def last_lines(self) -> str:
        return "".join(self.tail or self.launcher_tail)

    def _copy(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            mark = self._RANK.match(line) if self._ranks else None
            if self._ranks and not mark:
                self.launcher_tail.append(line)
                continue
            text = line[mark.end() :] if mark else line
            first = not mark or mark[1] == "0"
            self.tail.append(text if first else f"rank {mark[1]}: {text}")
            if first:
                sys.stderr.write(text)
                sys.stderr.flush()


class _Reader(dg.PipesTempFileMessageReader):
    """Hands progress messages to `sinks` as they come; everything else goes Pipes' usual way."""

    expected_writer_count = 1

    def __init__(self, sinks: list[Callable[[Message], None]]) -> None:
        super().__init__()
        self._sinks = sinks

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[Any]:
        with super().read_messages(_Handler(handler, self._sinks)) as params:  # type: ignore[arg-type]
            yield params


class _Handler:
    """A message handler in front of Pipes' own."""

    def __init__(self, handler: dg.PipesMessageHandler, sinks: list[Callable[[Message], None]]) -> None:
        self._handler = handler
        self._sinks = sinks

    def handle_message(self, message: Any) -> None:
        payload = (message["params"] or {}).get("payload")
        if isinstance(payload, dict) and payload.get("aquarat") == "progress":
            for sink in self._sinks:
                sink(payload)
        else:
            self._handler.handle_message(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)


def _failure(stage: Stage, code: int, result: dict[str, Any] | None, output: _Output) -> dg.Failure:
    metadata = {"last_lines": dg.MetadataValue.md(f"```\n{output.last_lines()}\n```")}
    if result and not result["ok"]:
        error = result["error"]
        text = error["message"] if error["user"] else f"{error['type']}: {error['message']}"
        return dg.Failure(f"{stage.name}: {text}", metadata=metadata, allow_retries=not error["user"])
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return dg.Failure(
        f"{stage.name} {how} without saying why. Its last lines:\n{output.last_lines()}", metadata=metadata
    )
