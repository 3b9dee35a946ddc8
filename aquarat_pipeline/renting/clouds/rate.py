"""A rate limit that all processes of a user on this machine share, in one file for each cloud and key.

Requests that end something go first, then orders, then lists, and offers last. Whoever waits stands in the file with
its kind; a process that died is passed over.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypedDict

from aquarat_pipeline.renting.clouds.model import Rate

Use = Literal["terminate", "rent", "list", "offers"]
FIRST: tuple[Use, ...] = ("terminate", "rent", "list", "offers")
_LOOK_AGAIN = 0.25
_FORGOTTEN_AFTER = 5.0
"""Seconds after which a waiting request that has not looked again no longer counts."""
_LONGEST_PAUSE = 60.0
_MARGIN = 0.02
"""Seconds more than the rate asks for: clocks run differently, and are rounded."""


class _Waiting(TypedDict):
    id: str
    use: Use
    since: float
    seen: float


class _Shared(TypedDict):
    free: float
    """When the next request may be sent, in Unix seconds."""
    rent_free: float
    waiting: list[_Waiting]


class RateLimit:
    """Lets requests through at a provider's rate."""

    def __init__(
        self, folder: Path, cloud: str, key: str, rate: Rate, now: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        """The file in `folder` is named after a hash of the key, which says nothing about it."""
        self._path = folder / f"{cloud}-{hashlib.sha256(f'{cloud}:{key}'.encode()).hexdigest()[:16]}.json"
        self._alone: _Shared = {"free": 0.0, "rent_free": 0.0, "waiting": []}
        self._rate = rate
        self._now = now
        self._sleep = sleep

    def enter(self, use: Use, patience: float = 60.0) -> bool:
        """Waits until a request of this kind may be sent. False if it may not within `patience` seconds."""
        mine = secrets.token_hex(8)
        began = self._now()
        while True:
            with self._locked() as shared:
                now = self._now()
                wait = self._try(shared, mine, use, now)
                if wait is None:
                    return True
                if now - began >= patience:
                    shared["waiting"] = [one for one in shared["waiting"] if one["id"] != mine]
                    return False
            self._sleep(min(max(wait, 0.01), _LOOK_AGAIN))

    def leave(self, use: Use) -> None:
        """To be called after each request. Providers count from when one arrives, which may be long after `enter`, as
        connections take time: the next one waits from here."""
        with self._locked() as shared:
            self._space(shared, use, self._now())

    def pause(self, seconds: float) -> None:
        """Lets nothing through for a while, because the provider said that there were too many requests."""
        with self._locked() as shared:
            shared["free"] = max(shared["free"], self._now() + min(seconds, _LONGEST_PAUSE))

    def _try(self, shared: _Shared, mine: str, use: Use, now: float) -> float | None:
        """Takes the turn and returns None, or the seconds until it may come."""
        self._mend_clock(shared, now)
        line = [one for one in shared["waiting"] if abs(now - one["seen"]) < _FORGOTTEN_AFTER]
        me = next((one for one in line if one["id"] == mine), None)
        if me is None:
            me = _Waiting(id=mine, use=use, since=now, seen=now)
            line.append(me)
        me["seen"] = now
        shared["waiting"] = line
        ready = [one for one in line if one["use"] != "rent" or shared["rent_free"] <= now]
        ready.sort(key=lambda one: (FIRST.index(one["use"]), one["since"], one["id"]))
        if shared["free"] > now:
            return shared["free"] - now
        if not ready or ready[0] is not me:
            return _LOOK_AGAIN
        line.remove(me)
        self._space(shared, use, now)
        return None

    def _space(self, shared: _Shared, use: Use, now: float) -> None:
        """Sets when the next request may be sent after one at this time."""
        shared["free"] = max(shared["free"], now + self._rate.every + _MARGIN)
        if use == "rent":
            shared["rent_free"] = max(shared["rent_free"], now + self._rate.rent_every + _MARGIN)

    def _mend_clock(self, shared: _Shared, now: float) -> None:
        """After the clock was set back, times in the file may be far in the future."""
        shared["free"] = min(shared["free"], now + _LONGEST_PAUSE)
        shared["rent_free"] = min(shared["rent_free"], now + max(self._rate.rent_every, _LONGEST_PAUSE))

    @contextmanager
    def _locked(self) -> Generator[_Shared]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            opened = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            # A full disk or a read-only home must not keep a host from being ended: this process paces itself alone.
            yield self._alone
            return
        with open(opened, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            shared = _read(file.read())
            yield shared
            try:
                file.seek(0)
                json.dump(shared, file)
                # After writing: ext4 flushes a file to the disk that was cut to nothing and written again.
                file.truncate()
                file.flush()
            except OSError:
                self._alone = shared


def _read(text: str) -> _Shared:
    """A file that cannot be read, because its writer was killed, is begun again."""
    try:
        raw = json.loads(text)
        waiting = [
            _Waiting(id=str(one["id"]), use=one["use"], since=float(one["since"]), seen=float(one["seen"]))
            for one in raw["waiting"]
            if one["use"] in FIRST
        ]
        return {"free": float(raw["free"]), "rent_free": float(raw["rent_free"]), "waiting": waiting}
    except (ValueError, KeyError, TypeError):
        return {"free": 0.0, "rent_free": 0.0, "waiting": []}
