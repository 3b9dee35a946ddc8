"""A run keeps the profile with which it started: its name and hash in the run's tags, its content in DAGSTER_HOME.

Definitions use the profile of the process that loads them, and several processes may execute a run: a terminal, a
worker of the daemon, another worker after that one died. All must load the same profile. A tag identifies a profile
only by the hash of its content, never by a file, because anyone who can start a run can set tags.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aquarat_core.artifacts.files import atomic_write
from aquarat_core.config import ConfigError, Profile, load_profile, profile_names
from aquarat_core.errors import UserError
from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.tags import PROFILE_HASH_TAG, PROFILE_TAG

if TYPE_CHECKING:
    import dagster as dg


class ProfileMismatchError(UserError):
    """A run that would continue under another profile than the one with which it started."""


def choose(name: str | None, depth: int | None = None) -> None:
    """Makes this process, and all processes that it starts, use the profile with that name or file, at a `depth` if one
    is given. Raises `ConfigError` for a depth that does not fit, and `HomeError`."""
    path = os.path.abspath(name or "")
    chosen = path if name and os.path.isfile(path) else name
    if depth is not None:
        chosen = str(at_depth(chosen, depth))
    if chosen:
        os.environ["AQUARAT_PROFILE"] = chosen


def at_depth(name: str | None, depth: int) -> Path:
    """The file in `DAGSTER_HOME` with the profile of that name or file at another depth; its name says its content.

    Raises `ConfigError` for a depth that does not fit, and `HomeError`.
    """
    profile = load_profile(name, depth=depth)
    path = dagster_home() / "aquarat" / "depths" / f"{profile.name}-{profile.sha256[:12]}.yaml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as file:
            file.write(profile.to_json())
    return path


def remember(home: Path, profile: Profile) -> dict[str, str]:
    """Saves the profile's content in `home` and returns the tags of a run that starts with it."""
    sha256 = profile.sha256
    path = _path(home, sha256)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as file:
            file.write(profile.to_json())
    return {PROFILE_TAG: profile.name, PROFILE_HASH_TAG: sha256}


def share(instance: dg.DagsterInstance, profile: Profile) -> None:
    """Writes the profile's content into the instance's database too, if other machines use it: they have another
    `DAGSTER_HOME`, and may have to resume the run."""
    from aquarat_pipeline.beats import is_shared  # imports Dagster, which commands want to do late

    if is_shared(instance):
        instance.daemon_cursor_storage.set_cursor_values({_key(profile.sha256): profile.to_json().decode()})


def fetch(instance: dg.DagsterInstance, tags: Mapping[str, str]) -> None:
    """Saves in `DAGSTER_HOME` the profile with which a run started on another machine; `recall` then checks it."""
    from aquarat_pipeline.beats import is_shared

    sha256 = tags.get(PROFILE_HASH_TAG, "")
    path = _path(Path(instance.root_directory), sha256)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or path.exists() or not is_shared(instance):
        return
    if text := instance.daemon_cursor_storage.get_cursor_values({_key(sha256)}).get(_key(sha256)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as file:
            file.write(text.encode())


def recall(home: Path, tags: Mapping[str, str]) -> Path | None:
    """The file with the profile with which a run started; None for a run that has not started.

    Raises `ProfileMismatchError` if the file is missing or was changed.
    """
    sha256 = tags.get(PROFILE_HASH_TAG)
    if sha256 is None:
        return None
    name = tags.get(PROFILE_TAG, "?")
    if name in profile_names() and (preset := load_profile(name)).sha256 == sha256:
        remember(home, preset)  # a run that the launchpad has started under another profile than that of its process
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not _path(home, sha256).is_file():
        raise ProfileMismatchError(
            f"the run started with profile {name} ({sha256[:12]}), which is not in {home}: run it again"
        )
    path = _path(home, sha256)
    try:
        found = load_profile(str(path)).sha256
    except ConfigError as e:
        raise ProfileMismatchError(
            f"the run started with profile {name} ({sha256[:12]}), which this version cannot read: run it again ({e})"
        ) from None
    if found != sha256:
        raise ProfileMismatchError(
            f"{path} is not the profile {name} ({sha256[:12]}) with which the run started: it was changed, or this "
            "version adds fields to it; run it again"
        )
    return path


def check(tags: Mapping[str, str], profile: Profile) -> None:
    """Raises `ProfileMismatchError` if a run started with another profile than the one that this process has loaded."""
    began, here = tags.get(PROFILE_HASH_TAG), profile.sha256
    if began is not None and began != here:
        raise ProfileMismatchError(
            f"the run started with profile {tags.get(PROFILE_TAG, '?')} ({began[:12]}), but this process has loaded "
            f"{profile.name} ({here[:12]}): one run has one profile, so nothing was executed"
        )


def _key(sha256: str) -> str:
    return f"aquarat/profile/{sha256}"


def _path(home: Path, sha256: str) -> Path:
    return home / "aquarat" / "profiles" / f"{sha256}.yaml"
