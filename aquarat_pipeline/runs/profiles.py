"""A run keeps the profile it began with: its name and hash in the run's tags, its content in DAGSTER_HOME.

Definitions take the profile of the process that loads them, and a run may be executed by several: by a terminal, by a
worker of the daemon, by another worker after that one died. Each must load the same. A tag names a profile by the hash
of its content alone, never a file: tags come from whoever can start a run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from aquarat_core.artifacts.files import atomic_write
from aquarat_core.config import ConfigError, Profile, load_profile
from aquarat_core.errors import UserError
from aquarat_pipeline.tags import PROFILE_HASH_TAG, PROFILE_TAG


class ProfileMismatchError(UserError):
    """A run that would go on under another profile than it began with."""


def choose(name: str) -> None:
    """Makes this process, and what it starts, use the profile of that name or file."""
    path = os.path.abspath(name)
    os.environ["AQUARAT_PROFILE"] = path if os.path.isfile(path) else name


def remember(home: Path, profile: Profile) -> dict[str, str]:
    """Keeps the profile's content in `home` and returns the tags of a run that begins with it."""
    sha256 = profile.sha256
    path = _path(home, sha256)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as file:
            file.write(profile.to_json())
    return {PROFILE_TAG: profile.name, PROFILE_HASH_TAG: sha256}


def recall(home: Path, tags: Mapping[str, str]) -> Path | None:
    """The file with the profile that a run began with, None for a run that has not begun.

    Raises `ProfileMismatchError` where it is not kept here, or is no longer what it was.
    """
    sha256 = tags.get(PROFILE_HASH_TAG)
    if sha256 is None:
        return None
    name = tags.get(PROFILE_TAG, "?")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not _path(home, sha256).is_file():
        raise ProfileMismatchError(
            f"the run began with profile {name} ({sha256[:12]}), which is not kept in {home}: run it again"
        )
    path = _path(home, sha256)
    try:
        found = load_profile(str(path)).sha256
    except ConfigError as e:
        raise ProfileMismatchError(
            f"the run began with profile {name} ({sha256[:12]}), which this version cannot read: run it again ({e})"
        ) from None
    if found != sha256:
        raise ProfileMismatchError(
            f"{path} is not the profile {name} ({sha256[:12]}) that the run began with: it was changed, or this "
            "version adds fields to it; run it again"
        )
    return path


def check(tags: Mapping[str, str], profile: Profile) -> None:
    """Raises `ProfileMismatchError` for a run that began with another profile than the one this process has loaded."""
    began, here = tags.get(PROFILE_HASH_TAG), profile.sha256
    if began is not None and began != here:
        raise ProfileMismatchError(
            f"the run began with profile {tags.get(PROFILE_TAG, '?')} ({began[:12]}), and this process has loaded "
            f"{profile.name} ({here[:12]}): one run has one profile, so nothing was executed"
        )


def _path(home: Path, sha256: str) -> Path:
    return home / "aquarat" / "profiles" / f"{sha256}.yaml"
