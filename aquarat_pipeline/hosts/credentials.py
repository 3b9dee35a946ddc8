"""Credentials for hosts: a token for what a job needs of the store, and nothing that is valid for more than an hour.

The local host gets one too, because its agent has no libraries to find credentials in the environment.
"""

from __future__ import annotations

import functools
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from aquarat_pipeline.hosts.transports import HostError

if TYPE_CHECKING:
    from aquarat_core.agent.protocol import Token
    from aquarat_core.artifacts import JobDir
    from aquarat_core.artifacts.credentials import JobToken

RENEW_SECONDS = 300.0
"""Seconds between two checks of a running job's token."""
MIN_VALIDITY = timedelta(minutes=30)
"""Minimum remaining lifetime of a token when it is sent to a host: some renewals may fail before it expires."""


def host_token(folder: JobDir, stage: str) -> Token | None:
    """A token for what the job of `stage` in that folder needs of its store; None if the store needs none.

    No token is needed for `file://` and the emulator. Raises `HostError` if none is available right now.
    """
    # The store is that of the folder, which the control host opened itself.
    store_uri = folder.backend.uri
    minter = _minter(store_uri, folder.prefix, stage)
    if minter is None:
        return None
    from google.auth.exceptions import GoogleAuthError

    try:
        token, expiry = minter.token(MIN_VALIDITY)
    except GoogleAuthError as e:
        raise HostError(f"there is no token for {store_uri}: {e}") from None
    return {"token": token, "seconds": (expiry - datetime.now(UTC)).total_seconds()}


@functools.lru_cache(maxsize=64)
def _minter(store_uri: str, folder: str, stage: str) -> JobToken | None:
    if not store_uri.startswith("gs://") or os.environ.get("STORAGE_EMULATOR_HOST"):
        return None
    from aquarat_core.artifacts.credentials import JobToken

    return JobToken(store_uri, folder, stage)
