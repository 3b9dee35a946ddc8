"""Makes the shards that are missing, whatever happens to the processes that make them.

A shard that fails is tried again; when there is nothing else to start, one that takes much longer than the others is
made a second time beside the first, and the result that arrives first is used. Everything that is made is in the store
before the driver hears of it, so a driver that is killed loses only what was being made.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aquarat_core.artifacts.errors import ArtifactError, HostDiskFullError, StoreError
from aquarat_core.errors import DataError, StageError, UserError
from aquarat_core.sharding.executor import Ended, Executor
from aquarat_core.sharding.records import DisputedError, ShardRecord, ShardStore
from aquarat_core.sharding.spec import ShardSpec

Log = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Called with the number of shards that are there, and of those wanted."""

_MISTAKES: dict[str, type[UserError]] = {
    kind.__name__: kind for kind in (DataError, DisputedError, ArtifactError, StoreError, HostDiskFullError)
}
"""Errors of shard functions that the stage raises with their own type, because callers treat them differently. Any
other `UserError` becomes a `StageError`."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When a shard is tried again, and when it is made a second time."""

    retries: int = 3
    """How often a shard that failed is tried again."""
    first_pause: float = 0.5
    """Seconds before the first retry; each further pause is twice as long."""
    straggles_after: float = 3.0
    """A shard is made a second time when it has taken this many times the median of the shards that are done."""
    least: float = 10.0
    """Seconds that a shard may always take before it is made a second time."""
    enough: int = 3
    """Shards that must be done before any other is made a second time."""
    drain: float = 60.0
    """Seconds that the shards that are being made have to finish once another one has failed for good."""


def make_shards(
    wanted: Sequence[ShardSpec],
    shards: ShardStore,
    executor: Callable[[Sequence[ShardSpec]], Executor],
    *,
    patience: Patience | None = None,
    progress: Progress = lambda done, total: None,
    log: Log = lambda text: None,
) -> list[ShardRecord]:
    """The records of all `wanted` shards, in order; `executor` is given those that are missing, if there are any.

    Raises what ended a shard after all retries: a `UserError` if the user can do something about it (`DisputedError` if
    it has two results), otherwise `RuntimeError`. The shards that are done stay in the store.
    """
    keys = [spec.key(shards.stage) for spec in wanted]
    specs = dict(zip(keys, wanted, strict=True))
    found = shards.find(specs)
    missing = {key: spec for key, spec in specs.items() if key not in found}
    if found and missing:
        log(f"{len(found):,} of {len(specs):,} shards are in the store already")
    progress(len(found), len(specs))
    if missing:
        running = executor(list(missing.values()))
        try:
            run = _Run(missing, running, patience or Patience(), log)
            while not run.finished:
                run.step()
                progress(len(found) + len(run.made), len(specs))
        finally:
            running.close()
        if run.failure is not None:
            raise run.failure
        found |= run.made
    return [found[key] for key in keys]


class _Run:
    """The state of one call of `make_shards`."""

    def __init__(self, missing: dict[str, ShardSpec], executor: Executor, patience: Patience, log: Log) -> None:
        self.made: dict[str, ShardRecord] = {}
        self.failure: Exception | None = None
        self._executor, self._patience, self._log = executor, patience, log
        self._specs = missing
        self._pending = deque((0.0, key) for key in missing)
        """The shards to start, and when by the monotonic clock."""
        self._running: dict[int, str] = {}
        """The key of the shard that each attempt makes."""
        self._tried = Counter[str]()
        self._doubled = set[str]()
        self._took = deque[float](maxlen=1_000)
        self._number = 0
        self._failed_at = 0.0

    @property
    def finished(self) -> bool:
        if self.failure is None:
            return len(self.made) == len(self._specs)
        late = time.monotonic() - self._failed_at > self._patience.drain
        return late or isinstance(self.failure, DisputedError) or not self._running

    def step(self) -> None:
        """Start what can be started, and take what has ended."""
        now = time.monotonic()
        if self.failure is None:
            self._start_pending(now)
            self._double_stragglers()
        for ended in self._executor.wait(0.2 if self._running else 0.02):
            self._take(ended)

    def _start_pending(self, now: float) -> None:
        if self._pending and len(self._running) >= self._executor.slots:
            self._stop_needless()
        waiting = 0
        while len(self._running) < self._executor.slots and waiting < len(self._pending):
            not_before, key = self._pending.popleft()
            if not_before > now:
                self._pending.append((not_before, key))
                waiting += 1
            else:
                self._start(key)

    def _start(self, key: str) -> None:
        self._number += 1
        self._running[self._number] = key
        self._executor.start(self._number, self._specs[key])

    def _stop_needless(self) -> None:
        """Stop the attempts at shards that are done, whose place is needed."""
        for number in [number for number, key in self._running.items() if key in self.made]:
            self._executor.stop(number)
            del self._running[number]

    def _double_stragglers(self) -> None:
        if self._pending or len(self._took) < self._patience.enough:
            return
        limit = max(self._patience.least, self._patience.straggles_after * statistics.median(self._took))
        for number, key in list(self._running.items()):
            if len(self._running) >= self._executor.slots:
                return
            seconds = self._executor.seconds(number)
            if seconds > limit and key not in self._doubled and key not in self.made:
                self._doubled.add(key)
                self._log(f"shard {self._specs[key].name} has taken {seconds:.0f} s: a second one is started")
                self._start(key)

    def _take(self, ended: Ended) -> None:
        key = self._running.pop(ended.attempt)
        if ended.why == "disputed":
            self._fail(_mistake(ended))
        elif ended.record is not None:
            if key not in self.made:
                self.made[key] = ended.record
                self._took.append(ended.record.seconds)
        elif key not in self.made and key not in self._running.values():
            self._retry(key, ended)

    def _retry(self, key: str, ended: Ended) -> None:
        self._tried[key] += 1
        tried, name = self._tried[key], self._specs[key].name
        if ended.why == "user":
            self._fail(_mistake(ended))
        elif tried <= self._patience.retries:
            pause = self._patience.first_pause * 2 ** (tried - 1)
            said = ended.said.strip().splitlines()[-1] if ended.said.strip() else "it failed"
            self._log(f"shard {name}: {said}; trying again in {pause:g} s")
            self._pending.append((time.monotonic() + pause, key))
        elif ended.why == "lost":
            self._fail(
                StageError(
                    f"shard {name} was tried {tried} times, and each time {ended.said}. Look at what it is made from, "
                    "and at the memory of the host; the other shards stay in the store"
                )
            )
        else:
            self._fail(RuntimeError(f"shard {name} failed {tried} times, the last time with:\n{ended.said}"))

    def _fail(self, failure: Exception) -> None:
        if self.failure is None or isinstance(failure, DisputedError):
            self.failure, self._failed_at = failure, time.monotonic()


def _mistake(ended: Ended) -> UserError:
    return _MISTAKES.get(ended.kind, StageError)(ended.said)
