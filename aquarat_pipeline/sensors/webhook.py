"""Posts JSON to the user's webhook. Its URL is a secret, read from the environment and never shown.

Exceptions of the HTTP library contain the URL, so only their type is reported. Of the server's answer, only the status
is.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aquarat_core.errors import UsageError

VARIABLE = "AQUARAT_WEBHOOK_URL"
SECONDS = 10.0
"""Time limit of one post, from the DNS lookup to the status."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def url() -> str | None:
    """The webhook's address; None if none is set. Raises `UsageError` for one that would send unencrypted."""
    found = os.environ.get(VARIABLE, "").strip()
    if not found:
        return None
    try:
        parts = urlsplit(found)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, None
    if parts and host and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
        return found
    raise UsageError(f"{VARIABLE} must be an https:// address, or http:// on this machine (127.0.0.1)")


def post(address: str, body: Mapping[str, Any]) -> str | None:
    """Posts `body` as JSON once. Returns None on success (status 2xx), else a text that says what went wrong.

    Redirects are not followed. The post ends after `SECONDS`, even if the server sends a byte now and then.
    """
    outcome: list[str | None] = []
    # The library's own time limit restarts with every byte and does not cover the DNS lookup.
    thread = threading.Thread(target=lambda: outcome.append(_post(address, body)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return outcome[0] if outcome else _silent()


def _post(address: str, body: Mapping[str, Any]) -> str | None:
    import requests

    # At level DEBUG it logs the path of each request.
    logging.getLogger("urllib3").setLevel(logging.INFO)
    try:
        with requests.Session() as session:
            # For an address on this machine, ignore proxies of the environment.
            session.trust_env = urlsplit(address).scheme == "https"
            with session.post(address, json=body, timeout=SECONDS, allow_redirects=False, stream=True) as answer:
                status = answer.status_code
    except requests.Timeout:
        return _silent()
    except Exception as e:
        return f"the webhook could not be reached ({type(e).__name__})"
    if 200 <= status < 300:
        return None
    return f"the webhook answered {status}" + (", a redirect, which is not followed" if 300 <= status < 400 else "")


def _silent() -> str:
    return f"the webhook did not answer within {SECONDS:.0f} s"
