"""Data sets from the Hugging Face Hub, through its own clients, with bounded retries and errors that say what to do.

The clients write to temporary names and move files that have the announced size into their cache (`HF_HOME`), so a
download that was cut short is never taken for a whole one. Each data set is pinned to the commit that was current when
it was opened: all its files belong together. `HF_ENDPOINT` and `HF_TOKEN` are read by the clients themselves.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.data.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Result = TypeVar("Result")
Log = Callable[[str], None]

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try."""
_TRY_LATER = (408, 429)


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set at one commit."""

    repo: str
    revision: str
    log: Log

    @classmethod
    def open(cls, repo: str, log: Log = lambda text: None) -> HubDataset:
        """The data set at its present commit. Raises `DataError` if there is none or the Hub does not answer."""
        from huggingface_hub import HfApi

        info = _with_retries(lambda: HfApi().dataset_info(repo), repo, "the data set", "check the name", log)
        return cls(repo, info.sha, log)

    def split(self, subsets: Sequence[str], split: str, columns: Sequence[str]) -> Dataset:
        """One split of `subsets`, one after the other, memory-mapped.

        Raises `DataError` if it is not there, not to be had or lacks one of `columns`.
        """
        import datasets

        datasets.disable_progress_bars()
        return datasets.concatenate_datasets([self._split(subset, split, columns) for subset in subsets])

    def _split(self, subset: str, split: str, columns: Sequence[str]) -> Dataset:
        import datasets

        what = f"subset {subset}, split {split}"
        loaded = _with_retries(
            lambda: datasets.load_dataset(self.repo, subset, split=split, revision=self.revision),
            self.repo, what, "check the names of subset and split", self.log,
        )  # fmt: skip
        if missing := [c for c in columns if c not in loaded.column_names]:
            raise DataError(
                f"{self.repo}, {what}: no column {', '.join(missing)} (there are {', '.join(loaded.column_names)}). "
                "Use a data set of the published shape"
            )
        return loaded

    def parquet(self, filename: str, column: str, hint: str) -> Path:
        """A local copy of one Parquet file, checked to be readable and to hold `column`.

        A cached file that cannot be read is fetched anew once. `hint` tells the user what to do if it is not there.
        """
        from huggingface_hub import hf_hub_download

        for force in (False, True):
            path = _with_retries(
                lambda force=force: hf_hub_download(
                    self.repo, filename, repo_type="dataset", revision=self.revision, force_download=force
                ),
                self.repo, filename, hint, self.log,
            )  # fmt: skip
            try:
                schema = pq.read_schema(path)
            except (pa.ArrowInvalid, OSError) as e:
                self.log(f"{self.repo}: {filename} is not readable as Parquet ({e})")
                continue
            if column not in schema.names:
                raise DataError(f"{self.repo}, {filename}: no column {column} (there are {', '.join(schema.names)})")
            if not _is_text(schema.field(column).type):
                raise DataError(
                    f"{self.repo}, {filename}: column {column} is {schema.field(column).type}, not text. "
                    "Use a data set of the published shape"
                )
            return Path(path)
        raise DataError(
            f"{self.repo}, {filename}, from {_endpoint()}: downloaded twice and not readable as Parquet. "
            "The file on the Hub is damaged: choose another one, or report it to the data set's owner"
        )


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def sample(n_rows: int, n: int, seed: int) -> list[int]:
    """`n` of `n_rows` row numbers (all, if there are fewer) in a seeded order."""
    return random.Random(seed).sample(range(n_rows), min(n, n_rows))


def _with_retries(action: Callable[[], Result], repo: str, what: str, hint: str, log: Log) -> Result:
    """`action()`, tried again after transient errors; `DataError` naming data set, file, endpoint and way out."""
    where = f"{repo}, {what}, from {_endpoint()}"
    for wait in (*WAITS, None):
        try:
            return action()
        # The clients let the exceptions of whatever transport they use through: there is no common base to name.
        except Exception as e:
            if reason := _final(e):
                raise DataError(f"{where}: {reason}. To go on: {hint}") from e
            if wait is None:
                raise DataError(
                    f"{where}: not delivered in {len(WAITS) + 1} tries (last error: {_first_line(e)}). To go on: check "
                    "the network and HF_ENDPOINT, or start again later; complete files are kept, nothing else is"
                ) from e
            log(f"{where}: {_first_line(e)}; trying again in {wait} s")
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _final(error: Exception) -> str | None:
    """Why trying again cannot help, or None if it may."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError):  # no connection and no cached copy
        return None
    if isinstance(error, GatedRepoError):
        return "access has to be asked for on its page, and HF_TOKEN to be set"
    if isinstance(error, (RepositoryNotFoundError, DatasetNotFoundError)):
        return "there is no such data set, or it is private and HF_TOKEN is not set"
    if isinstance(error, EntryNotFoundError):
        return "there is no such file"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"refused with status {status}" if 400 <= status < 500 and status not in _TRY_LATER else None
    if isinstance(error, ValueError):  # an unknown subset or split
        return _first_line(error).rstrip(".")
    return None


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _first_line(error: Exception) -> str:
    text: Any = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
