"""Names that people give to artifacts, such as `rl-with-hints`: a small object in the store for each.

A name stays with its artifact until someone moves it on purpose. It is accepted wherever a hash is, and shown beside
hashes. Garbage collection keeps what has a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from aquarat_core.artifacts.errors import ArtifactError
from aquarat_core.artifacts.records import Ref, read_each, read_name, ref_bytes, replace_object
from aquarat_core.errors import UsageError

if TYPE_CHECKING:
    from aquarat_core.artifacts.store import Artifact, ArtifactStore

MAX_LENGTH = 60
PATTERN = re.compile(r"[a-z][a-z0-9]*([.-][a-z0-9]+)*")
_FOLDER = "names/"


class GivenNameError(UsageError):
    """A name that cannot be given, moved or taken away; the message says why and what to do."""


def is_name(text: str) -> bool:
    """Whether an artifact may have that name: it cannot be confused with a hash, a path or an experiment's asset."""
    return len(text) <= MAX_LENGTH and PATTERN.fullmatch(text) is not None and not re.fullmatch("[0-9a-f]{6,}", text)


def check(store: ArtifactStore, name: str, *, move: bool = False) -> None:
    """Raises `GivenNameError` for a name that a new artifact could not have: a text that is no name, the name of an
    asset, and unless `move` one that an artifact has already."""
    if not is_name(name):
        raise GivenNameError(
            f"{name!r} cannot name an artifact: use small letters, digits and single - or . between them, at most "
            f"{MAX_LENGTH}, starting with a letter, and nothing that could be a hash"
        )
    if name in store.assets():
        raise asset_has_it(name)
    if not move and (current := store.backend.read(_key(name))) is not None:
        raise _taken(name, _readable(store, name, current.data))


def give(artifact: Artifact, name: str, *, move: bool = False) -> str | None:
    """Gives the artifact that name; returns the hash of the manifest that had it before, if it was moved.

    Raises `GivenNameError` for a text that is no name, for the name of an asset, and unless `move` for one that another
    artifact has.
    """
    store = artifact.store
    check(store, name, move=True)

    def allow(held: bytes) -> None:
        if not move:
            raise _taken(name, _readable(store, name, held))

    ref = ref_bytes(artifact.asset, artifact.sha256, artifact.data_version)
    replaced = replace_object(store.backend, _key(name), ref, allow)
    before = _readable(store, name, replaced) if replaced else None
    return before.manifest_sha256 if before else None


def take_away(store: ArtifactStore, name: str) -> None:
    """Removes a name; the artifact stays. Raises `GivenNameError` if there is no such name."""
    if not is_name(name) or not store.backend.delete(_key(name)):
        raise GivenNameError(f"{store.uri} has no name {name!r}: `aquarat name` lists them")


def named(store: ArtifactStore, name: str) -> Artifact | None:
    """The artifact with that name; None if there is no such name.

    Raises `ArtifactError` if the name's object is damaged, or the artifact is not there.
    """
    if not is_name(name) or (found := store.backend.read(_key(name))) is None:
        return None
    return store.get(read_name(found.data, f"{store.uri}/{_key(name)}").manifest_sha256)


def names(store: ArtifactStore) -> dict[str, Ref | ArtifactError]:
    """All names in alphabetical order; an error for those that cannot be read."""
    keys = {_key(name): name for name in listed(store)}
    return {keys[key]: ref for key, ref in read_each(store.backend, keys, read_name)}


def listed(store: ArtifactStore) -> list[str]:
    """All names in alphabetical order, without what they name: only their keys are listed."""
    return [name for key in store.backend.keys(_FOLDER) if (name := _name_of(key))]


def by_hash(store: ArtifactStore) -> dict[str, list[str]]:
    """The names of every artifact that has one, by its manifest's hash. Damaged names are left out."""
    found: dict[str, list[str]] = {}
    for name, ref in names(store).items():
        if isinstance(ref, Ref):
            found.setdefault(ref.manifest_sha256, []).append(name)
    return found


def beside(sha256: str, known: Mapping[str, Iterable[str]], digits: int = 12) -> str:
    """The beginning of a hash with the names of its artifact, as people see it: `3f9d927e41aa (rl-with-hints)`."""
    given = ", ".join(known.get(sha256, ()))
    return f"{sha256[:digits]} ({given})" if given else sha256[:digits]


def shown(artifact: Artifact, known: Mapping[str, Iterable[str]] | None = None) -> str:
    """The artifact's asset, the beginning of its hash and its names. Reads the store's names if they are not given."""
    return f"{artifact.asset} {beside(artifact.sha256, by_hash(artifact.store) if known is None else known)}"


def asset_has_it(name: str) -> GivenNameError:
    """The error for a name that an asset has already."""
    return GivenNameError(f"{name} is an asset: choose a name that no asset has")


def _taken(name: str, held: Ref | None) -> GivenNameError:
    whose = f"{held.asset} {held.manifest_sha256[:12]}" if held else "a damaged object"
    return GivenNameError(f"{name} already names {whose}: choose another name, or move this one with --move")


def _readable(store: ArtifactStore, name: str, data: bytes) -> Ref | None:
    try:
        return read_name(data, f"{store.uri}/{_key(name)}")
    except ArtifactError:
        return None


def _key(name: str) -> str:
    return f"{_FOLDER}{name}.json"


def _name_of(key: str) -> str | None:
    name = key.removeprefix(_FOLDER).removesuffix(".json")
    return name if key == _key(name) and is_name(name) else None
