"""Error messages for a bucket's refusals that say what to do."""

from __future__ import annotations

import re

_LOGIN = "Run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS to a service account file."
_PERMISSION = re.compile(r"\bstorage\.\w+\.\w+")
_CLOCK = ("reasonable timeframe", "used too early", "used too late", "check your clock", "iat and exp")
_NEEDED = {
    "storage.objects.get": "roles/storage.objectViewer",
    "storage.objects.list": "roles/storage.objectViewer",
}
"""The smallest role that allows reading; everything else needs `roles/storage.objectUser`."""


def refused(uri: str, error: Exception) -> str:
    """The message about credentials that are missing, expired or rejected."""
    said = first_line(error)
    if any(mark in str(error).lower() for mark in _CLOCK):
        return (
            f"store {uri} rejects the time in this host's token: {said}. The host's clock is wrong: "
            "set it (`timedatectl set-ntp true`), then run the same command again."
        )
    return f"store {uri} refuses the credentials: {said}. {_LOGIN}"


def forbidden(uri: str, error: Exception) -> str:
    """The message about an account without access; names the permission if the response does."""
    found = _PERMISSION.search(str(error))
    missing = f" The permission {found[0]} is missing." if found else ""
    role = _NEEDED.get(found[0], "roles/storage.objectUser") if found else "roles/storage.objectUser"
    return f"store {uri} refuses access: {first_line(error)}.{missing} The account needs {role} on it."


def unanswered(uri: str, error: Exception) -> str:
    """The message about a server that cannot be reached or sends invalid responses, after all retries."""
    return (
        f"store {uri} does not answer as it should: {first_line(error)}. Check the network, "
        "and STORAGE_EMULATOR_HOST if an emulator is meant; then run the same command again."
    )


def first_line(error: Exception) -> str:
    """The first line of the error, without the pages that some errors append."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".")[:300] if text else type(error).__name__
