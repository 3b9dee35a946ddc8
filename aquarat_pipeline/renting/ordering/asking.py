"""What a worker whose step waits does about renting: it sees that a keeper is at work, and hears what that one says.

A worker speaks with no cloud itself.
"""

from __future__ import annotations

import time
from pathlib import Path

from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.renting import keeping
from aquarat_pipeline.renting.config import RentConfigError, by_hand, read_config
from aquarat_pipeline.renting.ordering import notices
from aquarat_pipeline.renting.ordering.notices import Notice

LOOK_SECONDS = 10.0
"""Between two looks at rent.yaml, and whether a keeper is at work."""


class Renting:
    """Whether a host is rented for one waiting step."""

    def __init__(self, home: Path, run_id: str, step: str, need: Requirement) -> None:
        self._home, self._run_id, self._step, self._need = home, run_id, step, need
        self._looked = float("-inf")
        self._own: Notice | None = None
        """What is so if no keeper says anything."""

    def notice(self) -> Notice | None:
        """None if renting has nothing to do with the step. Its ticket must be written."""
        if self._need.pool is None:
            return None
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._own = self._look(self._need.pool)
        return notices.read(self._home, self._run_id, self._step) or self._own

    def _look(self, name: str) -> Notice | None:
        try:
            pool = read_config(self._home).pools.get(name)
            if pool is None:
                return None
            if not pool.automatic:
                return Notice(by_hand(name))
            keeping.start_if_needed(self._home)
        except RentConfigError as e:
            return Notice(f"nothing is rented: {e}")
        except OSError as e:
            return Notice(f"nothing is rented, because no keeper could be started: {e}")
        log = keeping.log_of(self._home)
        return Notice(f"the keeper, which rents hosts of the pool {name}, has said nothing yet (its log is {log})")
