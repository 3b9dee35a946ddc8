"""Requests to the Hugging Face Hub through its own client: bounded retries, and reasons that say what to do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from aquarat_core.errors import DataError
from aquarat_core.plain_text import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

Result = TypeVar("Result")
Log = Callable[[str], None]

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds to wait before each retry."""
_TRY_LATER = (408, 429)


def with_retries(
    action: Callable[[], Result],
    repo: str,
    what: str,
    hint: str,
    log: Log,
    waits: Sequence[float] | None = None,
    kind: str = "data set",
) -> Result:
    """Calls `action`, again after transient errors; else `DataError` with repository, file, endpoint and remedy.

    `kind` is the word for the repository.
    """
    from huggingface_hub import get_session

    where = f"{repo}, {what}, from {endpoint()}"
    waits = WAITS if waits is None else waits
    for wait in (*waits, None):
        get_session().timeout = timeout()  # Some of the client's requests have no timeout of their own.
        try:
            return action()
        # The clients pass on the exceptions of their transport, which have no common base class.
        except Exception as e:
            if reason := final_reason(e, kind):
                raise DataError(f"{where}: {reason}. To continue: {hint}") from e
            if wait is None:
                raise DataError(
                    f"{where}: not delivered in {len(waits) + 1} tries (last error: {_said(e)}). To continue: "
                    "check the network and HF_ENDPOINT, or start again later; only complete files are kept"
                ) from e
            log(f"{where}: {_said(e)}; trying again in {wait} s")
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


DIGEST_LENGTH = 40


class HubFile(NamedTuple):
    """A file of a data set, as the Hub lists it."""

    digest: str
    """The first `DIGEST_LENGTH` digits of the SHA-256 of a large file, or Git's SHA-1 of a small one; the clients name
    their cached copies by the whole of it, and some mirrors list no more than this."""
    size: int
    """Bytes."""


def listed_files(repo: str, revision: str, names: Sequence[str], log: Log) -> dict[str, HubFile]:
    """Those of the named files that a data set has at a commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def ask() -> list[Any]:
        return HfApi().get_paths_info(repo, list(names), revision=revision, repo_type="dataset")

    found = with_retries(ask, repo, "the list of its files", "check the name", log)
    files = [entry for entry in found if isinstance(entry, RepoFile)]
    return {f.path: HubFile((f.lfs.sha256 if f.lfs else f.blob_id)[:DIGEST_LENGTH], f.size) for f in files}


def repository_files(
    api: HfApi, repo: str, revision: str, ask: Callable[[str, Callable[[], Any]], Any]
) -> tuple[str, dict[str, RepoFile]]:
    """The commit that a revision of a model repository names, and its files by path.

    `ask` sends a request, which it can name in an error (`with_retries`).
    """
    from huggingface_hub.hf_api import RepoFile

    commit = str(ask("the revision", lambda: api.repo_info(repo, revision=revision)).sha)
    entries: list[Any] = ask("the files", lambda: list(api.list_repo_tree(repo, recursive=True, revision=commit)))
    return commit, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def final_reason(error: BaseException | None, kind: str = "data set") -> str | None:
    """The reason why trying again cannot help, or None if it may."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError):  # no connection and no cached copy
        return None
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, GatedRepoError):
        return "request access on its page, and set HF_TOKEN"
    if isinstance(error, (RepositoryNotFoundError, *_not_found_by_datasets())):
        return f"there is no such {kind}, or it is private and HF_TOKEN is not set"
    if isinstance(error, RevisionNotFoundError):
        return "there is no such revision"
    if isinstance(error, EntryNotFoundError):
        return "there is no such file"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"refused with status {status}" if 400 <= status < 500 and status not in _TRY_LATER else None
    if isinstance(error, ValueError):  # an unknown subset or split
        return _said(error).rstrip(".")
    return None


def _said(error: BaseException) -> str:
    """The first line of an error's message, without the token, which some messages of the transport contain."""
    text = first_line(error)
    for token in filter(None, (part for part in os.environ.get("HF_TOKEN", "").split() if len(part) > 3)):
        text = text.replace(token, "***")
    return text


def _not_found_by_datasets() -> tuple[type[Exception], ...]:
    """The exception for a missing data set. Only `datasets` raises it, whose import would take seconds."""
    loaded = sys.modules.get("datasets.exceptions")
    return (loaded.DatasetNotFoundError,) if loaded else ()


def endpoint() -> str:
    """The address of the Hub: HF_ENDPOINT, or its own."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def timeout() -> float:
    """Seconds that a request may take."""
    from huggingface_hub import constants

    return float(constants.HF_HUB_ETAG_TIMEOUT)
