"""Takes an evaluation bundle out of a zip file that anyone may have made."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from aquarat_core.errors import DataError
from aquarat_core.evaluation.core.bundle import DATA_FOLDER, METADATA_FILE, TASKS_FILE
from aquarat_core.plain_text import one_line

MAX_BYTES = 1 << 30
"""Of all files together, unpacked."""
MAX_MEMBERS = 10_000
MAX_NAME = 255
"""Bytes of a file's or folder's name."""
_CHUNK = 1 << 20
_ENCRYPTED = 1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def unpack(archive: Path, folder: Path) -> None:
    """Write the bundle's files in `archive` to `folder`, which is empty: core.yaml, the metadata and the data.

    They may be at the top of the archive or in one folder. Raises `DataError`, before anything is written, for an
    archive with links, with names that lead out of the folder, or with more bytes than a bundle has; and while it is
    written for damaged members and for those that have more bytes than they say.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for member, name in _members(opened):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _extract(opened, member, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        raise DataError(f"the archive is damaged, or not a zip file ({e}): fetch it again") from None


def _members(opened: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The members that belong to the bundle, with their places in its folder, after all members were checked."""
    infos = opened.infolist()
    if len(infos) > MAX_MEMBERS:
        raise DataError(f"the archive has {len(infos):,} members, and a bundle has at most {MAX_MEMBERS:,}")
    for info in infos:
        _check(info)
    if (total := sum(info.file_size for info in infos)) > MAX_BYTES:
        raise DataError(
            f"the archive unpacks to {total / 1e9:.1f} GB, and a bundle has at most {MAX_BYTES / 1e9:.1f} GB"
        )
    files = [info for info in infos if not info.is_dir()]
    top = _top([PurePosixPath(info.filename) for info in files])
    places = [(info, PurePosixPath(info.filename).relative_to(top)) for info in files if _is_in(info.filename, top)]
    belonging = [(i, p) for i, p in places if p.parts[0] == DATA_FOLDER or str(p) in (TASKS_FILE, METADATA_FILE)]
    names = {place for _, place in belonging}
    if len(names) < len(belonging) or any(parent in names for place in names for parent in place.parents):
        raise DataError("the archive has two members of one name: make it again")
    return belonging


def _check(info: zipfile.ZipInfo) -> None:
    name = info.filename
    path = PurePosixPath(name)
    too_long = any(len(part.encode(errors="replace")) > MAX_NAME for part in path.parts)
    if too_long or path.is_absolute() or ".." in path.parts or not path.parts or any(c in name for c in "\\\0:"):
        raise DataError(
            f"the archive has a member {one_line(name[:80])!r}, which leads out of its folder or is too long: not used"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"the archive has a link ({one_line(name)}), which a bundle has no use for: it is not used")
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        raise DataError(f"{one_line(name)} in the archive is encrypted or compressed in a way that is not read")


def _top(paths: Sequence[PurePosixPath]) -> PurePosixPath:
    """The folder of the archive that holds core.yaml: the top, or one below it."""
    found = [path.parent for path in paths if path.name == TASKS_FILE and len(path.parts) <= 2]
    if len(found) != 1:
        raise DataError(
            f"the archive is no evaluation bundle: it has {len(found)} files {TASKS_FILE}, and one is wanted"
        )
    return found[0]


def _is_in(name: str, folder: PurePosixPath) -> bool:
    return PurePosixPath(name).is_relative_to(folder)


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    left = member.file_size
    with opened.open(member) as source, target.open("xb") as file:
        while chunk := source.read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise DataError(
                    f"{one_line(member.filename)} in the archive has more bytes than it says: it is not used"
                )
            file.write(chunk)
