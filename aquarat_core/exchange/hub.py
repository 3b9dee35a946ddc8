"""Releases on the Hugging Face Hub: upload in one commit, and download without code.

An upload sends the large files first, which stay invisible, and then makes one commit, so that a reader never sees half
a release. An upload that was cut off continues with the files that the Hub does not have yet. The client reads
`HF_ENDPOINT`; the token comes from `HF_TOKEN` alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.artifacts.bounded import MAX_BYTES
from aquarat_core.data.hub_client import Log, endpoint, repository_files, with_retries
from aquarat_core.errors import DataError, UsageError, UserError
from aquarat_core.exchange.facts import FACTS, ReleaseFacts, read_facts

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

SCHEME = "hf://"
MAIN = "main"
_URI = re.compile(r"hf://(?:models/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_REVISION = re.compile(r"\w[\w./-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_OURS = (".gitattributes",)
"""Files that the Hub makes itself."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository on the Hub, and a branch, tag or commit of it."""

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, uri: str) -> Repository:
        """Raises `UsageError` unless it reads `hf://owner/name` or `hf://owner/name@revision`."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise UsageError(f"{uri} names no repository on the Hub: write hf://owner/name or hf://owner/name@revision")
        return cls(match[1], match[2])


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The commit that holds a release. `changed` is false if the repository had the same files before."""

    commit: str
    url: str
    changed: bool


def quiet(text: str) -> None:
    """A log that keeps nothing."""


# --- download -------------------------------------------------------------------------------------------------------


def download(uri: str, log: Log = quiet, step: int | None = None) -> Path:
    """The folder of a repository's checkpoint in the clients' cache, at the commit that the revision names now.

    `step` selects one of nanochat's checkpoints (default: the last one). Raises `DataError` if it does not exist, is
    gated or cannot be fetched, and `WeightsError`, before weights are fetched, for what is no checkpoint.
    """
    from aquarat_core.exchange.fetching import fetch

    wanted = Repository.parse(uri)
    return fetch(wanted.name, wanted.revision or MAIN, step, log)


# --- upload ---------------------------------------------------------------------------------------------------------


def upload(
    folder: Path, to: Repository, *, public: bool = False, tag: str | None = None, force: bool = False, log: Log = quiet
) -> Uploaded:
    """Makes the files in `folder` the content of a repository's branch (default: main), in one commit.

    A new repository is private unless `public`; the visibility of an existing one stays. `tag` names the commit.
    Nothing changes if the files are there already. Raises `UsageError` without a token, for a tag that names another
    commit, and, unless `force`, for a repository with a model of another family; `DataError` if the Hub refuses or
    cannot be reached.
    """
    from huggingface_hub import HfApi

    if tag is not None and not _REVISION.fullmatch(tag):
        raise UsageError(f"{tag!r} is not a name for a tag: letters, digits and . _ - / only, such as v1.0")
    target = _Target(HfApi(token=write_token()), to.name, to.revision or MAIN, log)
    target.prepare(private=not public)
    head, there = target.state()
    if not force:
        target.check_family(head, there, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in files}
    stale = sorted(set(there) - names - set(_NOT_OURS))
    changed = bool(stale) or any(_differs(path, there.get(path.relative_to(folder).as_posix())) for path in files)
    if tag:
        target.check_tag(tag, None if changed else head)
    commit = target.commit(folder, files, stale, head) if changed else head
    if tag:
        target.tag(tag, commit)
    return Uploaded(commit, f"{endpoint()}/{to.name}/tree/{tag or commit}", changed)


def write_token() -> str:
    """The token in the environment, without the line break of a file that it may come from. Raises `UsageError` if
    there is none."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UsageError("HF_TOKEN is not set: export a token that may write to the repository")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UsageError("HF_TOKEN has characters that no token has: export it without spaces and line breaks")
    return token


@dataclass(frozen=True, slots=True)
class _Target:
    """A branch of a repository that is written to."""

    api: HfApi
    repo: str
    branch: str
    log: Log

    def prepare(self, private: bool) -> None:
        """Makes the repository and the branch if they are missing. Raises `UsageError` if the branch is none."""
        if _COMMIT.fullmatch(self.branch):
            raise UsageError(f"{self.branch} is a commit: a release is written to a branch of {self.repo}")
        self._ask("the repository", lambda: self.api.create_repo(self.repo, private=private, exist_ok=True))
        if self.branch != MAIN:
            if self.branch in self._tags():
                raise UsageError(
                    f"{self.branch} is a tag of {self.repo}, and a release is written to a branch: leave it out, and "
                    "name the new commit with --tag"
                )
            make = lambda: self.api.create_branch(self.repo, branch=self.branch, exist_ok=True)  # noqa: E731
            self._ask(f"branch {self.branch}", make)

    def state(self) -> tuple[str, dict[str, RepoFile]]:
        """The branch's commit, and its files by path."""
        return repository_files(self.api, self.repo, self.branch, self._ask)

    def check_family(self, head: str, there: dict[str, RepoFile], folder: Path) -> None:
        """Raises `UsageError` if the repository holds a model that does not descend from the same first checkpoint."""
        weights = [name for name in there if name.endswith((".safetensors", ".bin", ".pt", ".gguf"))]
        if FACTS not in there:
            if not weights:
                return
            found = f"a model that aquarat did not release ({weights[0]})"
        elif (held := self._facts(head, there[FACTS].size)) is None:
            found = f"a {FACTS} that cannot be read"
        else:
            ours = read_facts(folder / FACTS)
            if held.root.data_version == ours.root.data_version:
                return
            found = f"a release that descends from {held.root.asset} {held.root.data_version[:12]}, and this one from "
            found += f"{ours.root.asset} {ours.root.data_version[:12]}"
        raise UsageError(
            f"{self.repo} holds {found}: choose another repository, or replace it with --force (the Hub keeps the "
            "earlier commits)"
        )

    def _facts(self, head: str, size: int) -> ReleaseFacts | None:
        """What the repository's release is made from; None if that cannot be read."""
        from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]  # a bare dict in it

        if size > MAX_BYTES:
            return None
        path = self._ask(FACTS, lambda: hf_hub_download(self.repo, FACTS, revision=head, token=self.api.token))
        try:
            return read_facts(Path(path))
        except UserError:
            return None

    def _tags(self) -> dict[str, str]:
        """The commit of each tag."""
        refs = self._ask("the tags", lambda: self.api.list_repo_refs(self.repo))
        return {ref.name: ref.target_commit for ref in refs.tags}

    def check_tag(self, tag: str, commit: str | None) -> None:
        """Raises `UsageError` if the tag exists and names another commit than this one."""
        named = self._tags().get(tag)
        if named is not None and named != commit:
            raise UsageError(
                f"{self.repo} has a tag {tag} already, of another release (commit {named[:12]}): choose another --tag"
            )

    def commit(self, folder: Path, files: Sequence[Path], stale: Sequence[str], head: str) -> str:
        """Sends the files and commits them on top of `head`. Returns the new commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        added = [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files]
        operations = [*added, *(CommitOperationDelete(name) for name in stale)]
        facts = read_facts(folder / FACTS)
        message = f"Release {facts.checkpoint.asset} {facts.checkpoint.data_version[:12]}"

        def send() -> str:
            self.api.preupload_lfs_files(self.repo, added, revision=self.branch, free_memory=False)
            made = self.api.create_commit(
                self.repo, operations, commit_message=message, revision=self.branch, parent_commit=head
            )
            return str(made.oid)

        try:
            return self._ask("the commit", send)
        except DataError as e:
            # The reply to a commit may be lost although the commit was made.
            now, there = self.state()
            if now != head and not any(_differs(p, there.get(p.relative_to(folder).as_posix())) for p in files):
                return now
            if now != head:
                raise DataError(
                    f"{self.repo}, branch {self.branch}, was changed by someone else meanwhile: look at it, and "
                    "release again"
                ) from e
            raise

    def tag(self, tag: str, commit: str) -> None:
        """Names the commit."""
        self._ask(f"tag {tag}", lambda: self.api.create_tag(self.repo, tag=tag, revision=commit, exist_ok=True))

    def _ask(self, what: str, action: Any) -> Any:
        hint = "check the name, and that HF_TOKEN may write there"
        return with_retries(action, self.repo, what, hint, self.log, kind="repository")


def _differs(path: Path, entry: RepoFile | None) -> bool:
    """Whether a file differs from the Hub's, whose digest is SHA-256 for large files and Git's SHA-1 for small ones."""
    if entry is None or entry.size != path.stat().st_size:
        return True
    if entry.lfs is not None:
        digest, wanted = hashlib.sha256(), entry.lfs.sha256
    else:
        digest, wanted = hashlib.sha1(b"blob %d\0" % entry.size), entry.blob_id
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest() != wanted
