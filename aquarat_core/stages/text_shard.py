"""One shard of pretrain_text: its documents from a file of the Hub, cleaned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.documents import texts_in, write_documents
from aquarat_core.data.hub import HubDataset
from aquarat_core.errors import DataError
from aquarat_core.sharding.spec import Counts, Work

FILE = "documents.parquet"


@dataclass(frozen=True, slots=True)
class Written:
    """How much text a file has."""

    documents: int
    text_bytes: int
    """UTF-8 bytes of all texts."""
    blank: int
    """Number of documents left out because they only contain white space."""


def clean(work: Work) -> Counts:
    """Fetch the file that `work.aside` names, whose digest `work.settings` has, and write its documents.

    Raises `DataError` if it cannot be fetched, has no text, or is another file than the Hub listed.
    """
    repo, revision, name = work.aside["repo"], work.aside["revision"], work.aside["file"]
    hub = HubDataset(repo, revision, work.log, cached_only=work.aside["cached_only"])
    path = hub.file(name, work.aside["hint"])
    hub.check_digest(path, name, work.settings["digest"])
    texts = hub.texts(path, name, "text", work.settings["limit"])
    bad = BadRows(f"{repo}/{name}", "pretrain_text", work.settings["on_bad_row"])
    written = write_texts(work.folder / FILE, texts_in(texts.chunks), bad, Path(name).stem)
    return {**asdict(written), "said": bad.summary()}


def write_texts(path: Path, texts: Iterable[str | bytes | None], bad: BadRows, split: str = "") -> Written:
    """Write the texts that are not blank; bytes, which are not valid UTF-8, go to `bad`, as rows of `split`.

    Raises `DataError` if nothing is left.
    """
    documents = text_bytes = blank = 0

    def kept() -> Iterator[str]:
        nonlocal documents, text_bytes, blank
        for number, text in enumerate(texts):
            if isinstance(text, bytes):
                bad.add(split, number, "the text is not valid UTF-8")
                continue
            if text is None or not text.strip():
                blank += 1
                continue
            documents += 1
            text_bytes += len(text.encode())
            yield text

    write_documents(path, kept())
    if not documents:
        raise DataError(f"{bad.source}: no document with text in it. Choose another shard, or generate more documents")
    return Written(documents, text_bytes, blank)
