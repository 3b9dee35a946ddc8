"""Where things are kept: the defaults behind the environment variables, in one place."""

from __future__ import annotations

import os
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[1]


def store_uri() -> str:
    """URI of the artifact store: `AQUARAT_STORE`, else a `file://` store under the checkout's `dagster_home/`."""
    return os.environ.get("AQUARAT_STORE") or f"file://{REPO_ROOT}/dagster_home/store"


def cache_dir() -> Path:
    """Directory of verified local copies of artifacts: `AQUARAT_CACHE`, else `~/.cache/aquarat`."""
    return Path(os.environ.get("AQUARAT_CACHE") or "~/.cache/aquarat").expanduser().absolute()
