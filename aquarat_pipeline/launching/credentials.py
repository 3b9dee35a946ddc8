"""What a GPU host may know: a token for the store's prefix, and nothing that outlives the hour."""

from __future__ import annotations

import functools
import os
from typing import Any

RENEW_SECONDS = 1200.0
"""How often a running job gets a new token, each good for an hour."""


def host_token(store_uri: str) -> dict[str, Any] | None:
    """`{"token", "expiry"}` for the bucket's prefix; None where none is asked for (`file://`, the emulator)."""
    if not store_uri.startswith("gs://") or os.environ.get("STORAGE_EMULATOR_HOST"):
        return None
    token, expiry = _minter(store_uri).token()
    return {"token": token, "expiry": expiry.isoformat()}


@functools.cache
def _minter(store_uri: str) -> Any:
    from aquarat_core.artifacts.credentials import PrefixToken

    return PrefixToken(store_uri)
