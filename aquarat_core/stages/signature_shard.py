"""One shard of the search for duplicates in pretraining text: the signatures of its documents."""

from __future__ import annotations

from contextlib import ExitStack

from aquarat_core.data.documents import read_documents
from aquarat_core.data.minhash import BANDS, bands, digest
from aquarat_core.sharding.spec import Counts, Work

DIGESTS = "digests.bin"
"""`DIGEST_BYTES` for each document."""
BAND_FILES = tuple(f"band-{number:02d}.bin" for number in range(BANDS))
"""Little-endian 64-bit numbers, one for each document. A file for each band, because one is needed at a time."""


def sign(work: Work) -> Counts:
    """Write the signatures of the documents `text`: digests, and with `near` in the settings bands too."""
    documents = 0
    files = BAND_FILES if work.settings["near"] else ()
    with ExitStack() as stack:
        digests, *of_bands = (stack.enter_context((work.folder / name).open("wb")) for name in (DIGESTS, *files))
        for text in read_documents(work.path("text")):
            documents += 1
            digests.write(digest(text))
            if of_bands:
                for file, value in zip(of_bands, bands(text).astype("<u8"), strict=True):
                    file.write(value.tobytes())
    return {"documents": documents}
