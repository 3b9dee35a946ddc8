"""The executor for few or small shards: they are made in this process, one after another."""

from __future__ import annotations

import time
from collections import deque

from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.sharding.executor import Ended
from aquarat_core.sharding.making import failed, make
from aquarat_core.sharding.records import ShardStore
from aquarat_core.sharding.spec import ShardSpec, work_here


class Inline:
    """Makes a shard when it is waited for. A function may use all cores."""

    slots = 1

    def __init__(self, shards: ShardStore) -> None:
        self._shards = shards
        self._waiting: deque[tuple[int, ShardSpec]] = deque()

    def start(self, attempt: int, spec: ShardSpec) -> None:
        self._waiting.append((attempt, spec))

    def wait(self, seconds: float) -> list[Ended]:
        if not self._waiting:
            time.sleep(seconds)
            return []
        return [self._make(*self._waiting.popleft())]

    def seconds(self, attempt: int) -> float:
        del attempt
        return 0.0

    def stop(self, attempt: int) -> None:
        self._waiting = deque(one for one in self._waiting if one[0] != attempt)

    def close(self) -> None:
        self._waiting.clear()

    def _make(self, attempt: int, spec: ShardSpec) -> Ended:
        try:
            with scratch_folder("shard") as folder, scratch_folder("inputs") as held:
                work = work_here(spec, folder, held)
                return Ended(attempt, make(self._shards, spec.key(self._shards.stage), spec.name, spec.function, work))
        except Exception as e:
            return failed(attempt, e)
