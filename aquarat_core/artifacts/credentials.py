"""The credentials for a bucket, and tokens for hosts that should not have credentials of their own.

Credentials are Google's application default credentials or a service account file. A GPU host instead gets a file with
a short-lived token that only works for one prefix of one bucket. The control host mints the token and replaces it
before it expires; nothing that lives longer than an hour ever reaches the host.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from aquarat_core.artifacts.errors import StoreError
from aquarat_core.artifacts.files import atomic_write

if TYPE_CHECKING:
    import google.auth.credentials
    import google.auth.transport

TOKEN_FILE = "AQUARAT_STORE_TOKEN_FILE"
REFRESH_BEFORE = timedelta(minutes=10)
"""A token is replaced this long before it expires. Google's libraries ask for a new one 3:45 minutes before."""
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


def environment_credentials() -> google.auth.credentials.Credentials | None:
    """Credentials from the file named by `AQUARAT_STORE_TOKEN_FILE`; None leaves the search to Google's libraries."""
    named = os.environ.get(TOKEN_FILE)
    if not named:
        return None
    from google.oauth2.credentials import Credentials

    path = Path(named)

    def read(_request: object = None, scopes: object = None) -> tuple[str, datetime]:
        return read_token(path)

    token, expiry = read()
    return Credentials(token=token, expiry=expiry, refresh_handler=read)


def read_token(path: Path) -> tuple[str, datetime]:
    """Token and expiry (UTC without a time zone, as Google's libraries expect). Raises `StoreError` if it expired."""
    try:
        held = json.loads(path.read_text())
        token, expiry = held["token"], datetime.fromisoformat(held["expiry"])
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(
            f"{TOKEN_FILE} names {path}, which holds no token: the control host writes it when it starts a job there"
        ) from None
    if expiry <= datetime.now(UTC):
        raise StoreError(
            f"the token in {path} expired at {expiry:%Y-%m-%d %H:%M} UTC: the control host has not replaced it; "
            "is its daemon running, and are both clocks right?"
        )
    return token, expiry.astimezone(UTC).replace(tzinfo=None)


class _Refreshed(Protocol):
    """The part of google-auth's credentials that is used here, because its own attributes have no types."""

    token: str | None
    expiry: datetime | None

    def refresh(self, request: google.auth.transport.Request) -> None: ...


class JobToken:
    """Mints tokens that give one job access to what it needs in a bucket's store, and to nothing else.

    All rights: the job's own folder, the unfinished state and ref of its stage's asset, `tmp/`, and blobs (publishing
    marks existing blobs as in use; a blob is named by its hash, which readers check). Read and create: manifests. No
    access to other jobs' folders, refs, pins or unfinished state, nor to anything outside the store's prefix.
    """

    def __init__(
        self,
        uri: str,
        folder: str,
        stage: str,
        source: google.auth.credentials.Credentials | None = None,
        request: google.auth.transport.Request | None = None,
    ) -> None:
        """`uri` is `gs://bucket/prefix`, `folder` the job's folder in it, `stage` the asset that the job makes.

        `source` must have all rights that the token gets (default: the environment's credentials).
        """
        import google.auth
        import google.auth.transport.requests
        from google.auth import downscoped

        scheme, _, rest = uri.partition("://")
        bucket, _, prefix = rest.rstrip("/").partition("/")
        if scheme != "gs" or not bucket or not prefix:
            raise StoreError(f"{uri!r} is not a prefix of a bucket, gs://bucket/prefix: a token could not be limited")
        if source is None:
            # google-auth leaves types out.
            source = cast("google.auth.credentials.Credentials", google.auth.default(scopes=[_SCOPE])[0])  # pyright: ignore[reportUnknownMemberType]
        self._request = request or google.auth.transport.requests.Request()
        boundary = _boundary(downscoped, bucket, prefix, folder, stage)
        self._credentials = cast(_Refreshed, downscoped.Credentials(source, boundary))

    def token(self, least: timedelta = REFRESH_BEFORE) -> tuple[str, datetime]:
        """A token that stays valid for at least `least`, and its expiry (UTC)."""
        expiry = self._credentials.expiry
        if expiry is None or expiry - datetime.now(UTC).replace(tzinfo=None) < least:
            self._credentials.refresh(self._request)
        # Both are set after a refresh.
        expiry = cast(datetime, self._credentials.expiry)
        return cast(str, self._credentials.token), expiry.replace(tzinfo=UTC)

    def write(self, path: Path) -> datetime:
        """Atomically writes a valid token to the file, readable only by its owner; returns its expiry."""
        token, expiry = self.token()
        with atomic_write(path, private=True) as file:
            file.write(json.dumps({"token": token, "expiry": expiry.isoformat()}).encode())
        return expiry


def _boundary(downscoped: Any, bucket: str, prefix: str, folder: str, stage: str) -> Any:
    """Access to objects, and to listings of them, by prefixes of their names."""
    for part in (prefix, folder, stage):
        if "'" in part or "\\" in part:
            raise StoreError(f"{part!r} of bucket {bucket} cannot be used in an access rule: no quotes or backslashes")
    own = (f"{folder}/", f"work/{stage}/", f"shards/{stage}/", "tmp/", "blobs/")
    full = ["inRole:roles/storage.objectUser"]
    adding = ["inRole:roles/storage.objectViewer", "inRole:roles/storage.objectCreator"]
    return downscoped.CredentialAccessBoundary(
        rules=[
            _rule(downscoped, bucket, [f"{prefix}/{start}" for start in own], full),
            _rule(downscoped, bucket, [f"{prefix}/manifests/"], adding),
        ]
    )


def _rule(downscoped: Any, bucket: str, starts: list[str], permissions: list[str]) -> Any:
    resource = f"projects/_/buckets/{bucket}"
    listed = "api.getAttribute('storage.googleapis.com/objectListPrefix', '')"
    named = [f"resource.name.startsWith('{resource}/objects/{start}')" for start in starts]
    return downscoped.AccessBoundaryRule(
        available_resource=f"//storage.googleapis.com/{resource}",
        available_permissions=permissions,
        availability_condition=downscoped.AvailabilityCondition(
            " || ".join([*named, *(f"{listed}.startsWith('{start}')" for start in starts)])
        ),
    )
