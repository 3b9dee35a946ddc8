"""What a GPU host may know: a token for the store, and nothing that outlives the hour."""

from __future__ import annotations


def host_token(store_uri: str) -> str | None:
    """A bearer token for the bucket of `store_uri`, or None where the store needs none (`file://`)."""
    return None
