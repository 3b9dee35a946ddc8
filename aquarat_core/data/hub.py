"""Data sets from the Hugging Face Hub, through its own clients, with bounded retries and errors that say what to do.

Each data set is pinned to the commit that was current when it was opened, so all its files belong together. If the Hub
cannot be reached, or `HF_HUB_OFFLINE` is set, the commit is the one last fetched, and the files come from the clients'
cache (`HF_HOME`). If a cached file does not match the Hub's digest, it is downloaded again, or named in an error if the
Hub cannot be reached. The clients read `HF_ENDPOINT` and `HF_TOKEN` themselves.
"""

from __future__ import annotations

import random
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from aquarat_core.data import hub_cache, hub_client
from aquarat_core.data.foreign import NoColumn, Unreadable, read_foreign
from aquarat_core.data.hub_client import DIGEST_LENGTH, HubFile, Log, endpoint, final_reason, timeout, with_retries
from aquarat_core.errors import DataError, MissingPackageError
from aquarat_core.plain_text import first_line

_CHECK_NAMES = "check the names of subset and split"
_USE_ANOTHER = "Use a data set with the published columns"
_NAMES_PER_REQUEST = 500


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set, pinned to one commit."""

    repo: str
    revision: str
    log: Log
    cached_only: bool = False
    """True if the Hub cannot be reached; then only cached files are available."""

    @classmethod
    def open(cls, repo: str, log: Log = lambda text: None) -> HubDataset:
        """The data set at its current commit, or at the one last fetched if the Hub does not answer.

        Raises `DataError` if there is no such data set, or if the Hub does not answer and nothing was fetched before.
        """
        from huggingface_hub import HfApi, constants

        cached = hub_cache.latest(repo)
        if constants.is_offline_mode():
            if cached is None:
                raise DataError(f"{repo}: HF_HUB_OFFLINE is set, and {_not_cached('this data set')}")
            log(f"{repo}: HF_HUB_OFFLINE is set, so it comes from the cache, at commit {cached}")
            return cls(repo, cached, log, cached_only=True)
        try:
            # With a cached commit to fall back on, there is no need to wait as long.
            waits = hub_client.WAITS if cached is None else hub_client.WAITS[:1]
            ask = partial(HfApi().dataset_info, repo, timeout=timeout())
            info = with_retries(ask, repo, "the data set", "check the name", log, waits)
        except DataError as e:
            if cached is None or final_reason(e.__cause__):
                raise
            log(f"{e}. It comes from the cache, at commit {cached}, without later changes on the Hub")
            return cls(repo, cached, log, cached_only=True)
        # The Hub names the commit of every data set; only other kinds of responses leave it out.
        return cls(repo, cast(str, info.sha), log)

    def split(
        self,
        subsets: Sequence[str],
        split: str,
        columns: Sequence[str] | None,
        first_files: int | None = None,
        advice: str = _USE_ANOTHER,
    ) -> pa.Table:
        """`columns` (None: all) of one split of `subsets`, concatenated and memory-mapped.

        Only the `first_files` of each subset are fetched, if that is not None. Raises `DataError` if the split does not
        exist, cannot be fetched or lacks one of `columns`; `advice` tells the user what to do about a missing column.
        """
        parts: list[pa.Table] = []
        for subset in subsets:
            where = f"{self.repo}, subset {subset}, split {split}"
            for name in self._names(subset, split)[:first_files]:
                parts.append(self._table(self.file(name, _CHECK_NAMES), name, columns, where, advice=advice))
        try:
            return pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException as e:
            raise DataError(
                f"{self.repo}, split {split}: its files have columns of different types ({first_line(e)}). "
                f"{_USE_ANOTHER}"
            ) from None

    def texts(self, path: Path, filename: str, column: str, limit: int | None = None) -> pa.ChunkedArray[Any]:
        """The first `limit` values (default: all) of a text column in a Parquet file that `file` returned."""
        where = f"{self.repo}, {filename}"
        found = self._table(path, filename, (column,), where, limit).column(column)
        if not (pa.types.is_string(found.type) or pa.types.is_large_string(found.type)):
            raise DataError(f"{where}: column {column} is {found.type}, not text. {_USE_ANOTHER}")
        return found

    def file(self, filename: str, hint: str) -> Path:
        """A local copy of one file, checked against the Hub's digest.

        A damaged copy in the cache is downloaded again once; if the Hub cannot be reached, it raises a `DataError` that
        names the file. `hint` tells the user what to do if there is no such file.
        """
        wrong = None
        for force in (False, True):
            path = self._fetch(filename, hint, force)
            if (wrong := hub_cache.damage(path)) is None:
                hub_cache.note_latest(self.repo, self.revision)
                return path
            if self.cached_only:
                raise DataError(
                    f"{self.repo}, {filename}: the copy in the cache is damaged: {wrong}. Start again where "
                    f"{endpoint()} can be reached to download it again; or put an intact copy at {path.resolve()}"
                )
            self.log(f"{self.repo}: {path.resolve()} is damaged: {wrong}{'' if force else '; it is downloaded again'}")
        raise DataError(
            f"{self.repo}, {filename}, from {endpoint()}: downloaded again and still damaged: {wrong}. To continue: "
            "check the disk under HF_HOME, and HF_ENDPOINT if it names a mirror"
        )

    def digests(self, hints: Mapping[str, str]) -> dict[str, HubFile]:
        """Digest and size of the named files, from the Hub or, if it cannot be reached, from the cache.

        Raises `DataError` for a file that is not there; `hints` has what the user can do about each.
        """
        names = list(dict.fromkeys(hints))
        if self.cached_only:
            return {name: self._cached_digest(name) for name in names}
        found: dict[str, HubFile] = {}
        for start in range(0, len(names), _NAMES_PER_REQUEST):
            found |= hub_client.listed_files(
                self.repo, self.revision, names[start : start + _NAMES_PER_REQUEST], self.log
            )
        for name in names:
            if name not in found:
                raise DataError(
                    f"{self.repo}, {name}, from {endpoint()}: there is no such file. To continue: {hints[name]}"
                )
        return found

    def _cached_digest(self, filename: str) -> HubFile:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.repo, filename, revision=self.revision, repo_type="dataset")
        if not isinstance(path, str):
            raise self._missing(filename)
        return HubFile(Path(path).resolve().name[:DIGEST_LENGTH], Path(path).stat().st_size)

    def check_digest(self, path: Path, filename: str, digest: str) -> None:
        """Raises `DataError` if the file, which `file` returned, is not the one that `digests` listed."""
        if not (name := path.resolve().name).startswith(digest):
            raise DataError(
                f"{self.repo}, {filename}, from {endpoint()}: the Hub listed it with the digest {digest[:12]}, but "
                f"delivered it with {name[:12]}. Start again; what was made of other files is kept"
            )

    def _fetch(self, filename: str, hint: str, force: bool) -> Path:
        """The clients' copy of a file, from the cache if it is there (unless `force`)."""
        from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]  # a bare dict in it
        from huggingface_hub.errors import LocalEntryNotFoundError

        def download(only_cached: bool) -> Path:
            return Path(
                hf_hub_download(
                    self.repo, filename, repo_type="dataset", revision=self.revision,
                    force_download=force, local_files_only=only_cached,
                )
            )  # fmt: skip

        if not self.cached_only:
            return with_retries(lambda: download(False), self.repo, filename, hint, self.log)
        try:
            return download(True)
        except LocalEntryNotFoundError:
            raise self._missing(filename) from None

    def _missing(self, what: str) -> DataError:
        return DataError(f"{self.repo}, {what}: {_absence()}, and {_not_cached('it', self.revision)}")

    def _names(self, subset: str, split: str) -> list[str]:
        """The files of one split, from the cache or as the Hub's client finds them."""
        found = hub_cache.splits(self.repo, self.revision, subset)
        if found is None:
            if self.cached_only:
                raise self._missing(f"subset {subset}")
            found = self._find_names(subset, split)
            hub_cache.note_splits(self.repo, self.revision, subset, found)
        if split not in found:
            raise DataError(
                f"{self.repo}, subset {subset}, split {split}, from {endpoint()}: there is no such split (there are "
                f"{', '.join(found)}). To continue: {_CHECK_NAMES}"
            )
        return found[split]

    def _find_names(self, subset: str, split: str) -> hub_cache.Splits:
        from huggingface_hub import try_to_load_from_cache

        try:
            import datasets  # pyright: ignore[reportMissingTypeStubs]  # it has none
        except ModuleNotFoundError as e:
            if e.name != "datasets":
                raise
            raise MissingPackageError(f"the data set {self.repo}", "datasets", "train") from None

        # The client reads the list of files in each split from there.
        about = try_to_load_from_cache(self.repo, "README.md", revision=self.revision, repo_type="dataset")
        if isinstance(about, str):
            self.file("README.md", _CHECK_NAMES)
        with tempfile.TemporaryDirectory() as nothing:
            # With a cache of its own: from the usual one it would use another commit if the Hub does not answer.
            builder = with_retries(
                lambda: datasets.load_dataset_builder(  # pyright: ignore[reportUnknownMemberType]  # no types of files
                    self.repo, subset, revision=self.revision, cache_dir=nothing
                ),
                self.repo, f"subset {subset}, split {split}", _CHECK_NAMES, self.log,
            )  # fmt: skip
        prefix = f"hf://datasets/{self.repo}@{self.revision}/"
        found: hub_cache.Splits = {}
        # Its type also covers the user's input, before the client has looked up the files.
        data_files = cast("dict[object, list[str]]", builder.config.data_files or {})
        for name, files in data_files.items():
            if wrong := [file for file in files if not (file.startswith(prefix) and file.endswith(".parquet"))]:
                raise DataError(
                    f"{self.repo}, subset {subset}: {wrong[0].removeprefix(prefix)} is not a Parquet file. Use a data "
                    "set that is published as Parquet; `datasets` converts others with push_to_hub"
                )
            found[str(name)] = [file.removeprefix(prefix) for file in files]
        return found

    def _table(
        self,
        path: Path,
        filename: str,
        columns: Sequence[str] | None,
        where: str,
        limit: int | None = None,
        advice: str = _USE_ANOTHER,
    ) -> pa.Table:
        try:
            return read_foreign(path, columns, limit)
        except NoColumn as e:
            raise DataError(f"{where}: {e}. {advice}") from None
        except Unreadable as e:
            raise DataError(
                f"{where}: {filename} is not readable as Parquet: {e}. The published file itself is damaged: choose "
                f"another one, or report it to the data set's owner (the copy is {path})"
            ) from None


def rows(table: pa.Table, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
    """The rows with these numbers (default: all), in the given order.

    A value that contains a text with invalid UTF-8 is returned as bytes, which no reader of rows accepts as a text.
    """
    batches = table.to_batches()
    ends = list(accumulate(len(batch) for batch in batches))
    for number in range(len(table)) if numbers is None else numbers:
        which = bisect_right(ends, number)
        row = batches[which].slice(number - (ends[which] - len(batches[which])), 1)
        try:
            yield row.to_pylist()[0]
        except UnicodeDecodeError:
            columns = cast("Iterable[pa.Array[Any]]", map(row.column, range(row.num_columns)))
            yield {name: _value(column) for name, column in zip(row.schema.names, columns, strict=True)}


def _value(column: pa.Array[Any]) -> Any:
    try:
        return column[0].as_py()
    except UnicodeDecodeError as e:
        return bytes(e.object)


def sample(n_rows: int, n: int, seed: int) -> list[int]:
    """`n` of `n_rows` row numbers (all if there are fewer), in a seeded order."""
    return random.Random(seed).sample(range(n_rows), min(n, n_rows))


def _absence() -> str:
    """The reason why the Hub cannot be used."""
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{endpoint()} does not answer"


def _not_cached(what: str, commit: str | None = None) -> str:
    from huggingface_hub import constants

    at = f" at commit {commit}" if commit else ""
    return (
        f"{what} is not in the cache {constants.HF_HOME}{at}. To continue: run this stage once on a machine that can "
        "reach the Hub, without HF_HUB_OFFLINE, or copy the folder that HF_HOME names from a machine that ran it"
    )
