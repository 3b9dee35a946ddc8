"""The credentials for a bucket, and tokens for hosts that are not to have credentials of their own.

Application default credentials or a service account's file, as Google's libraries find them; or, on a GPU host, a file
with a short-lived token that can do nothing outside of one prefix of one bucket. The control host mints it and puts a
new one in its place before it expires; nothing longer-lived than an hour ever reaches the host.
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
"""How long before it expires a token is replaced. Google's libraries ask for a new one 3:45 minutes before."""
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


def environment_credentials() -> google.auth.credentials.Credentials | None:
    """Credentials from the file that `AQUARAT_STORE_TOKEN_FILE` names, or None: Google's libraries find theirs."""
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
    """Token and expiry (UTC, without a zone, as Google's libraries want it). Raises `StoreError` for a stale file."""
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
    """The part of google-auth's credentials that is used here; their own attributes have no types."""

    token: str | None
    expiry: datetime | None

    def refresh(self, request: google.auth.transport.Request) -> None: ...


class JobToken:
    """Mints tokens that give one job access to what it needs of a store in a bucket, and to nothing else.

    Its own folder, the unfinished state and the ref of its stage's asset, and `tmp/`: all rights. Blobs: all rights,
    for publishing marks those that are there as used; each is named by its hash, which its readers check. Manifests: to
    read and to add to. No other job's folder, ref, pin or unfinished state, and nothing outside the store's prefix.
    """

    def __init__(
        self,
        uri: str,
        folder: str,
        stage: str,
        source: google.auth.credentials.Credentials | None = None,
        request: google.auth.transport.Request | None = None,
    ) -> None:
        """`uri` is `gs://bucket/prefix`, `folder` the job's in it, `stage` the asset that it makes.

        `source` may do all that the token may (default: the environment's).
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
        """A token that is valid for at least `least`, and when it expires (UTC)."""
        expiry = self._credentials.expiry
        if expiry is None or expiry - datetime.now(UTC).replace(tzinfo=None) < least:
            self._credentials.refresh(self._request)
        # Both are set once it has been refreshed.
        expiry = cast(datetime, self._credentials.expiry)
        return cast(str, self._credentials.token), expiry.replace(tzinfo=UTC)

    def write(self, path: Path) -> datetime:
        """Puts a valid token into the file, readable by its owner alone, in one step; returns when it expires."""
        token, expiry = self.token()
        with atomic_write(path, private=True) as file:
            file.write(json.dumps({"token": token, "expiry": expiry.isoformat()}).encode())
        return expiry


def _boundary(downscoped: Any, bucket: str, prefix: str, folder: str, stage: str) -> Any:
    """Access to objects by prefixes of their names, and to listings of them."""
    for part in (prefix, folder, stage):
        if "'" in part or "\\" in part:
            raise StoreError(f"{part!r} of bucket {bucket} cannot stand in an access rule: no quotes or backslashes")
    own = (f"{folder}/", f"work/{stage}/", "tmp/", "blobs/")
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
