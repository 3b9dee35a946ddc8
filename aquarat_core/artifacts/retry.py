"""Retries of operations that may succeed later, with back-off and jitter, respecting `Retry-After` and a time limit."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import google.auth.exceptions
import requests
import urllib3
from google.api_core import exceptions as api

T = TypeVar("T")

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)


class CorruptedInTransit(ConnectionError):
    """The received bytes do not match the checksum that the bucket reports."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Waits up to `first` seconds before the second try, and up to twice as long before each further one.

    The waits are random ("full jitter"), so that clients that failed together do not return together. `Retry-After`
    is a lower bound.
    """

    first: float = 0.5
    longest: float = 30.0
    deadline: float = 120.0
    """Seconds after the first try at which the last error is raised. Progress restarts this time."""

    def call(self, operation: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Calls `operation`, again after errors that may pass; `progress()` returns a number that grows with its
        progress."""
        tries, reached, give_up = 0, progress(), time.monotonic() + self.deadline
        while True:
            try:
                return operation()
            except Exception as e:
                if not is_transient(e):
                    raise
                if progress() > reached:
                    tries, reached, give_up = 0, progress(), time.monotonic() + self.deadline
                wait = random.uniform(0, min(self.longest, self.first * 2**tries)) + retry_after(e)
                if time.monotonic() + wait > give_up:
                    raise
                time.sleep(wait)
                tries += 1


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        # google-auth leaves its type out.
        return bool(error.retryable)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    if isinstance(error, api.GoogleAPICallError):
        return error.code in TRANSIENT_STATUS
    return isinstance(error, _TRANSIENT)


def retry_after(error: Exception) -> float:
    """Seconds that the server asked to wait, 0 if it did not ask; a date instead of a number is ignored."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", None) or {}
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else 0.0
