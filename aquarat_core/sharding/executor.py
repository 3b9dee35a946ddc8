"""The interface of an executor, which makes shards somewhere: in this process, in others, on other hosts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from aquarat_core.sharding.records import ShardRecord
from aquarat_core.sharding.spec import ShardSpec

Why = Literal["", "user", "disputed", "fault", "lost"]
"""Why there is no record: a mistake of the user, a second result, an exception, or a process that ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that ended: with a record, or with a reason."""

    attempt: int
    record: ShardRecord | None
    said: str = ""
    why: Why = ""
    kind: str = ""
    """Name of the exception's class."""

    def to_line(self) -> bytes:
        """As a line of JSON, which another process wrote or will read."""
        record = self.record.model_dump(mode="json") if self.record else None
        return json.dumps(asdict(self) | {"record": record}).encode() + b"\n"


def read_ended(line: str | bytes) -> Ended:
    """Parses what `Ended.to_line` returned."""
    reply = json.loads(line)
    record = ShardRecord.model_validate(reply["record"]) if reply["record"] else None
    return Ended(reply["attempt"], record, reply["said"], reply["why"], reply["kind"])


class Executor(Protocol):
    """Runs attempts, at most `slots` at a time."""

    @property
    def slots(self) -> int: ...

    def start(self, attempt: int, spec: ShardSpec) -> None:
        """Begins an attempt. Only called while fewer than `slots` are running."""
        ...

    def wait(self, seconds: float) -> list[Ended]:
        """The attempts that ended since the last call; waits up to `seconds` for the first."""
        ...

    def seconds(self, attempt: int) -> float:
        """For how long an attempt has been worked on; 0 while the process that will do it is starting."""
        ...

    def stop(self, attempt: int) -> None:
        """Ends an attempt, which `wait` then does not report."""
        ...

    def close(self) -> None:
        """Ends everything that is running."""
        ...
