"""The stores of `tests/artifacts`: a directory, memory, and a bucket on a real fake-gcs-server process."""

from tests.artifacts.conftest import _own_cache, gcs_url, publish, shared_uri, uri

__all__ = ["_own_cache", "gcs_url", "publish", "shared_uri", "uri"]
