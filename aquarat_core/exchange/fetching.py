"""Fetches a checkpoint of a repository on the Hub, and nothing else of it.

All files are of one commit. Those that describe the checkpoint come first; only if they are of a form that is read here
are the weights fetched. No code is fetched, and of pickles only those that are read without running any.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from aquarat_core.artifacts.weights import weight_files
from aquarat_core.data.hub_client import Log, repository_files, with_retries
from aquarat_core.errors import DataError, WeightsError
from aquarat_core.exchange.nanochat.reading import described_model
from aquarat_core.exchange.opening import check_config
from aquarat_core.exchange.tokenizer_files import FILES as TOKENIZERS

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FIRST = frozenset((
    CONFIG, INDEX, "generation_config.json", "tokenizer_config.json", "release.json", "README.md",
    *(folder + name for folder in ("", "tokenizer/") for name in TOKENIZERS),
))  # fmt: skip
"""Files that describe a checkpoint, as far as a repository has them."""
MAX_FIRST_BYTES = 24 << 20
"""Maximum size of each of these: that of a tokenizer file."""
_STEP = re.compile(r"model_(\d{6,})\.pt")
_CHECKPOINT = re.compile(r"(?:.*/)?(?:model_\d+\.pt|config\.json)")
_SHARD = re.compile(r"[\w.-]+")
_HINT = "check the name and the revision"


def fetch(name: str, revision: str, step: int | None, log: Log) -> Path:
    """The folder of a repository's checkpoint in the clients' cache, at the commit that the revision names now.

    `step` selects one of nanochat's checkpoints (default: the last one). With `HF_HUB_OFFLINE`, the folder has what was
    fetched before. Raises `DataError` if the Hub refuses or cannot be reached, if the disk has too little space, and if
    the repository changes meanwhile; `WeightsError`, before weights are fetched, for what is no checkpoint.
    """
    from huggingface_hub import constants

    source = _Source(name, revision, log)
    if constants.HF_HUB_OFFLINE:
        return source.download(revision, (), waits=())
    commit, files = source.listing()
    chosen = _chosen_step(name, files, step)
    if chosen is None:
        if CONFIG not in files:
            raise WeightsError(_nothing_here(name, files))
        if step is not None:
            raise WeightsError(f"{name} holds one checkpoint: it cannot be chosen, so leave out --step")
        meta, first = None, FIRST & files.keys()
    else:
        meta = f"meta_{chosen:06d}.json"
        if meta not in files:
            raise WeightsError(f"{name} has no {meta}, which describes its checkpoint of step {chosen}")
        first = (FIRST & files.keys()) | {meta}
    if large := next((one for one in sorted(first) if files[one].size > MAX_FIRST_BYTES), None):
        raise WeightsError(f"{name}: {large} has {files[large].size:,} bytes, and at most {MAX_FIRST_BYTES:,} are read")
    folder = source.download(revision, first)
    if folder.name != commit:
        raise DataError(f"{name} was changed while it was being read: start again, to have one commit of it")
    if meta is None:
        check_config(folder)
        weights = _weights(name, folder, files)
    else:
        described_model(folder / meta)
        weights = [f"model_{chosen:06d}.pt"]
    source.check_space(folder, [files[one] for one in weights])
    return source.download(commit, weights)


@dataclass(frozen=True, slots=True)
class _Source:
    """A revision of a repository that is read."""

    name: str
    revision: str
    log: Log

    def listing(self) -> tuple[str, dict[str, RepoFile]]:
        """The commit that the revision names, and its files by path."""
        from huggingface_hub import HfApi

        return repository_files(HfApi(token=_token()), self.name, self.revision, lambda _, action: self._ask(action))

    def download(self, revision: str, names: Collection[str], waits: tuple[float, ...] | None = None) -> Path:
        """The folder of the revision's commit with the files of these names, which have no wildcards."""
        from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]  # a bare dict in it

        def fetched() -> str:
            return str(snapshot_download(self.name, revision=revision, allow_patterns=sorted(names), token=_token()))

        return Path(self._ask(fetched, waits))

    def check_space(self, folder: Path, files: Iterable[RepoFile]) -> None:
        """Says how much is to be fetched. Raises `DataError` if the cache's disk has too little space for it."""
        blobs = folder.parent.parent / "blobs"
        absent = [one for one in files if not (blobs / (one.lfs.sha256 if one.lfs else one.blob_id)).exists()]
        if not absent:
            return
        size, free = sum(one.size for one in absent), shutil.disk_usage(folder).free
        self.log(f"{self.name}, commit {folder.name[:12]}: {len(absent)} files of weights, {size / 1e6:,.1f} MB")
        if size > free:
            raise DataError(
                f"{self.name}: its weights have {size / 1e9:,.1f} GB, but the disk of the Hub's cache ({blobs.parent}) "
                f"has {free / 1e9:,.1f} GB left: free some, or set HF_HOME to a folder on another disk"
            )

    def _ask(self, action: Callable[[], Any], waits: tuple[float, ...] | None = None) -> Any:
        return with_retries(
            action, self.name, f"revision {self.revision}", _HINT, self.log, waits, kind="repository"
        )  # fmt: skip


def _token() -> str | bool:
    """Never the client's stored token."""
    return os.environ.get("HF_TOKEN") or False


def _chosen_step(name: str, files: Collection[str], step: int | None) -> int | None:
    """The step of nanochat's checkpoint; None if the repository has none."""
    steps = sorted(int(match[1]) for match in map(_STEP.fullmatch, files) if match)
    if not steps:
        return None
    if step is not None and step not in steps:
        raise WeightsError(f"{name} has no checkpoint of step {step}, but of {', '.join(map(str, steps[-5:]))}")
    return steps[-1] if step is None else step


def _nothing_here(name: str, files: Iterable[str]) -> str:
    inside = sorted({str(PurePosixPath(path).parent) for path in files if _CHECKPOINT.fullmatch(path)})
    return (
        f"there is no checkpoint in {name}: nanochat's has model_STEP.pt and meta_STEP.json, Hugging Face's and "
        f"aquarat's have a {CONFIG}"
        + (f". There is one in its folder {inside[0]}: download it, and give the folder" if inside else "")
    )


def _weights(name: str, folder: Path, files: Collection[str]) -> list[str]:
    """The names of the files that hold the tensors."""
    if WEIGHTS in files and INDEX in files:
        raise WeightsError(f"{name} has {WEIGHTS} and an index of other shards: one of them is out of date")
    names = [path.name for path in weight_files(folder) if path.name != INDEX]
    if odd := next((one for one in names if one not in files or not _SHARD.fullmatch(one)), None):
        raise WeightsError(f"{name} has no {odd}: only weights in safetensors files are read")
    return names
