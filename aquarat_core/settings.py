"""Locations and limits from environment variables, with their defaults."""

from __future__ import annotations

import os
import re
from pathlib import Path

from aquarat_core.errors import UsageError

REPO_ROOT = Path(__file__).resolve().parents[1]


def store_uri() -> str:
    """URI of the artifact store: `AQUARAT_STORE`, else a `file://` store under the checkout's `dagster_home/`."""
    return os.environ.get("AQUARAT_STORE") or f"file://{REPO_ROOT}/dagster_home/store"


def cache_dir() -> Path:
    """Directory of verified local copies of artifacts: `AQUARAT_CACHE`, else `~/.cache/aquarat`."""
    return Path(os.environ.get("AQUARAT_CACHE") or "~/.cache/aquarat").expanduser().absolute()


def scratch_dir() -> Path:
    """Directory for working files of stages: below `AQUARAT_SCRATCH`, which a job's supervisor sets, else in the
    cache."""
    named = os.environ.get("AQUARAT_SCRATCH")
    return (Path(named).expanduser().absolute() if named else cache_dir()) / "aquarat-scratch"


def cache_limit() -> int:
    """Size limit of the cache in bytes: `AQUARAT_CACHE_LIMIT`, like `200GB` or `512MB`; else 100 GB."""
    said = os.environ.get("AQUARAT_CACHE_LIMIT") or "100GB"
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MGT])B", said)
    if match is None:
        raise UsageError(f"AQUARAT_CACHE_LIMIT is {said!r}: write a number and MB, GB or TB, such as 200GB")
    return int(float(match[1]) * 1000 ** {"M": 2, "G": 3, "T": 4}[match[2]])


def ray_address() -> str | None:
    """Address of the Ray cluster that makes shards: `AQUARAT_RAY_ADDRESS`, `local` for one of the stage's own; None for
    processes of this machine."""
    return os.environ.get("AQUARAT_RAY_ADDRESS", "").strip() or None
