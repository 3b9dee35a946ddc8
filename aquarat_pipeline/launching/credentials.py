"""What a host may know: a token for the store's prefix, and nothing that outlives the hour.

A host that is this machine gets one too: its agent has no libraries to find the environment's credentials with.
"""

from __future__ import annotations

import functools
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aquarat_pipeline.launching.transports import HostError

if TYPE_CHECKING:
    from aquarat_core.artifacts.credentials import PrefixToken

RENEW_SECONDS = 300.0
"""How often a running job's token is looked at."""
LEAST = timedelta(minutes=30)
"""What a host's token is still good for when it is sent: some renewals may fail before it ends."""


def host_token(store_uri: str) -> dict[str, Any] | None:
    """`{"token", "seconds"}` for the bucket's prefix; None where none is asked for (`file://`, the emulator).

    It says for how long the token is good and not until when: the host's date may be wrong. Raises `HostError` where
    none is to be had just now.
    """
    minter = _minter(store_uri)
    if minter is None:
        return None
    from google.auth.exceptions import GoogleAuthError

    try:
        token, expiry = minter.token(LEAST)
    except GoogleAuthError as e:
        raise HostError(f"there is no token for {store_uri}: {e}") from None
    return {"token": token, "seconds": (expiry - datetime.now(UTC)).total_seconds()}


@functools.cache
def _minter(store_uri: str) -> PrefixToken | None:
    if not store_uri.startswith("gs://") or os.environ.get("STORAGE_EMULATOR_HOST"):
        return None
    from aquarat_core.artifacts.credentials import PrefixToken

    return PrefixToken(store_uri)
