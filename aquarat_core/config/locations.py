"""Locations of rows: a path, a URL, or a split of a data set on the Hugging Face Hub.

In a profile's file, a path is relative to the folder of that file. A loaded profile holds local files by absolute path
and SHA-256, `/data/train.jsonl#sha256=<hex>`: a stage is stale when the file changes, and only reads content that
matches the hash in its config. The same suffix may be written by hand, also for a URL.
"""

from __future__ import annotations

import ipaddress
import os
import re
import types
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Union, cast, get_args, get_origin
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag

from aquarat_core.config.fields import PositiveInt, StrictModel
from aquarat_core.config.local_files import check_format, pin_of

SCHEMES = ("file", "gs", "hf", "http", "https", "memory", "s3")
_PIN = re.compile(r"#sha256=([0-9a-f]{64})$")
_SECRET = re.compile(
    r"token|secret|signature|password|passwd|credential|api_?key|access_?key|^sig$|^key$", re.IGNORECASE
)
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"#]*")


class HubRows(StrictModel):
    """A split of a data set that is published on the Hub as Parquet."""

    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """`owner/name`."""
    subset: str = "default"
    """The data set's configuration."""
    split: str = "train"
    """The split's name."""
    first_files: PositiveInt | None = None
    """Only the first files of the split, in the order of their names; null reads all. A large data set has hundreds of
    files, and each that is read is downloaded."""


class Anchor:
    """Marks the texts whose paths `anchored` completes."""


def pinned(location: str, *, text: bool = True) -> str:
    """The location as stored in a config: a valid URL, or an absolute path with a hash, which is that of the files that
    are read: without `text`, no text files of a folder.

    Raises `ValueError` for a path that is relative or leads to no file, and for an unsupported URL.
    """
    place, sha256 = split_pin(location)
    path = local_path(place)
    if path is None:
        if place.startswith(("http://", "https://")):
            check_format(urlsplit(place).path)  # A single file: folders are not listed over HTTP.
        return location
    return f"{path}#sha256={sha256 or pin_of(path, text=text)}"


def local_path(place: str) -> str | None:
    """The absolute path that a location without its hash stands for; None for a URL that can be used.

    Raises `ValueError` for a relative path and for a URL that is not read.
    """
    if place.startswith("file://"):
        parts = urlsplit(place)
        if parts.netloc not in ("", "localhost"):
            raise ValueError("a file:// URL names a file on this machine: write file:///absolute/path")
        place = unquote(parts.path)
    elif "://" in place:
        _check_url(place)
        return None
    place = os.path.expanduser(place)
    if not os.path.isabs(place):
        raise ValueError(
            "the path is relative: write an absolute one, or put it into a profile's file, where paths are relative "
            "to the folder of that file"
        )
    return place


_KIND = Discriminator(lambda value: "hub" if isinstance(value, (dict, HubRows)) else "path")
Location = Annotated[
    Annotated[str, AfterValidator(pinned), Anchor(), Tag("path")] | Annotated[HubRows, Tag("hub")], _KIND
]
"""`data/train.jsonl`, `data/`, `data/*.parquet`, `gs://bucket/train.jsonl`, or `{hub: owner/name, split: train}`."""
RowLocation = Annotated[
    Annotated[str, AfterValidator(partial(pinned, text=False)), Anchor(), Tag("path")] | Annotated[HubRows, Tag("hub")],
    _KIND,
]
"""A `Location` of rows with columns: text files in a folder are not read."""


def split_pin(text: str) -> tuple[str, str | None]:
    """A location without its hash, and the hash."""
    found = _PIN.search(text)
    return (text[: found.start()], found[1]) if found else (text, None)


def shown(location: str | HubRows) -> str:
    """The location for messages, without its hash and without the parts of a URL that may be secret."""
    if isinstance(location, HubRows):
        part = f", first_files {location.first_files}" if location.first_files else ""
        return f"{location.hub}, subset {location.subset}, split {location.split}{part}"
    return without_secrets(split_pin(location)[0])


def short_name(location: str | HubRows) -> str:
    """The last part of a location, which is the same on every machine."""
    return location.hub if isinstance(location, HubRows) else shown(location).rstrip("/").rpartition("/")[2]


def without_secrets(text: str) -> str:
    """`text` with user, password and query removed from every URL in it."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def anchored(value: Any, kind: Any, folder: Path) -> Any:
    """`value`, which will become a `kind`, with the relative paths of all its locations completed by `folder`.

    `kind` is a model or any other annotation. Values that do not fit it are left for validation to reject.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if isinstance(value, str) and any(isinstance(mark, Anchor) for mark in arguments[1:]):
            return _beside(value, folder)
        return anchored(value, arguments[0], folder)
    if origin in (Union, types.UnionType):
        for argument in arguments:
            value = anchored(value, argument, folder)
        return value
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            # pydantic keeps the marks of a field's own type apart from it.
            kinds = {
                name: Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
                for name, field in kind.model_fields.items()
            }
            return {name: anchored(item, kinds.get(name), folder) for name, item in fields.items()}
        if origin is dict:
            return {name: anchored(item, arguments[1], folder) for name, item in fields.items()}
        return fields
    if isinstance(value, list) and origin in (tuple, list):
        items = cast("list[Any]", value)
        return [anchored(item, arguments[0], folder) for item in items]
    return cast(Any, value)


def _beside(text: str, folder: Path) -> str:
    return text if "://" in text or text.startswith(("~", "/")) or not text else str(folder / text)


def _check_url(url: str) -> None:
    """Raises `ValueError` for an unsupported URL, or one that would publish a secret with the artifact's config."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or "::" in url:
        raise ValueError(f"the URL does not begin with one of {', '.join(f'{s}://' for s in SCHEMES)}")
    if "@" in parts.netloc or any(_SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError(
            "the URL contains a password or a token, and a profile is published with every artifact. Use gs://, s3:// "
            "or hf://, which take credentials from the environment, or fetch the file and give its path"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("http:// is only read from this machine, because it could be changed on the way: use https://")


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
