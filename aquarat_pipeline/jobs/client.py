"""The Pipes client with which an asset runs its stage. Stages never run in a Dagster process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import dagster as dg

from aquarat_core.agent.protocol import Succeeded
from aquarat_core.artifacts import ArtifactStore
from aquarat_core.plain_text import printable
from aquarat_core.stages.registry import Stage
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.jobs.progress import Ahead, Message, display
from aquarat_pipeline.jobs.runner import StageRunner
from aquarat_pipeline.jobs.telling import Teller


class StageInvocation(dg.PipesClientCompletedInvocation):
    """A stage that has finished; `result` is the content of its `result.json`."""

    def __init__(self, session: dg.PipesSession, result: Succeeded) -> None:
        super().__init__(session)  # pyright: ignore[reportUnknownMemberType]  # the type of metadata, which we do not use
        self.result = result


class TorchrunPipesClient(dg.PipesClient):
    """Runs stages on the hosts of the inventory, and stages that need no GPU host on this machine.

    `program` are the arguments of Python, followed by the URI of a spec. A stage that is stopped here has
    `grace_seconds` to end.
    """

    def __init__(self, program: Sequence[str] = ("-m", "aquarat_core.stages.run"), grace_seconds: float = 30.0) -> None:
        self._program = tuple(program)
        self._grace_seconds = grace_seconds

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
        """Runs `attempt`, and further attempts if hosts are lost.

        Raises `dg.Failure` with the stage's own message if it fails, and Dagster's interrupt if it is cancelled.
        """
        with display(stage.name, ahead) as show:
            tell = Teller(context)
            reader = _Reader([show, tell])

            def say(text: str) -> None:
                show.say(text)
                tell.say(f"{text[:1].upper()}{text[1:]}.")

            with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), reader, extras=extras) as session:
                runner = StageRunner(
                    context,
                    stage,
                    attempt,
                    store,
                    program=self._program,
                    pipes_env=session.get_bootstrap_env_vars(),
                    grace_seconds=self._grace_seconds,
                    handle=reader.handle,
                    say=say,
                )
                result = runner.run()
        return StageInvocation(session, result)


class _Reader(dg.PipesMessageReader):
    """Passes the followed job's progress messages to `sinks`, and all others to Pipes as usual.

    A stage's process may open and close its side several times if it is restarted; Dagster only sees that once.
    """

    @property
    def expected_writer_count(self) -> int:
        return 1

    def __init__(self, sinks: list[Callable[[Message], None]]) -> None:
        self._sinks = sinks
        self._handler: dg.PipesMessageHandler | None = None

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Generator[dict[str, Any]]:
        self._handler = handler
        handler.handle_message({"method": "opened", "params": {"extras": {}}})  # type: ignore[typeddict-item]
        try:
            yield {}
        finally:
            # Even if the stage failed or was stopped; otherwise Dagster warns that messages may be missing.
            handler.handle_message({"method": "closed", "params": {}})  # type: ignore[typeddict-item]

    def handle(self, message: dict[str, Any]) -> None:
        """Handles one message from the stage's process."""
        message = cast("dict[str, Any]", _printable(message))
        if message["method"] in ("opened", "closed"):
            return
        params: dict[str, Any] = message["params"] or {}
        payload: Any = params.get("payload")
        if isinstance(payload, dict) and cast("dict[str, Any]", payload).get("aquarat") == "progress":
            for sink in self._sinks:
                sink(cast(Message, payload))
        else:
            assert self._handler is not None
            self._handler.handle_message(message)  # type: ignore[arg-type]

    def no_messages_debug_text(self) -> str:
        return "The stage's messages come from its job's folder in the store."


def _printable(value: object) -> object:
    """A message with all texts made safe to show, because Dagster writes them to terminals and the UI."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in cast("dict[str, object]", value).items()}
    return value
