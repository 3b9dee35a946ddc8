"""Retries of what may succeed later: with back-off and jitter, no sooner than the server asks, and not forever."""

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
    """Bytes that arrived are not those that the bucket says it holds."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Waits between 0 and `first` seconds before the second try, up to twice as long before each next one.

    ("Full jitter": many clients that failed together do not come back together.) `Retry-After` is a lower bound.
    """

    first: float = 0.5
    longest: float = 30.0
    deadline: float = 120.0
    """Seconds after the first try at which the last error is raised. Progress starts the time anew."""

    def call(self, operation: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """`operation()`, tried again after errors that may pass; `progress()` grows with what it has achieved."""
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
    """Seconds that the server asked to wait, 0 if it did not; a date instead of a number is ignored."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", None) or {}
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else 0.0
