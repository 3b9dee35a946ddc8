"""One shard of pretraining text without some of its documents, and what some of its documents look like."""

from __future__ import annotations

import json

import numpy as np

from aquarat_core.data.documents import DocumentWriter, read_documents
from aquarat_core.sharding.spec import Counts, Work

FILE = "documents.parquet"
EXCERPTS = "excerpts.json"
"""The beginnings of texts, by the number of the document."""
EXCERPT = 300
"""Characters of an excerpt."""


def keep(work: Work) -> Counts:
    """Write the documents of `text` except those whose numbers, ascending 32-bit integers, are in `left_out`."""
    left_out = iter(np.fromfile(work.path("left_out"), "<u4").tolist())
    documents = text_bytes = 0
    following = next(left_out, None)
    with DocumentWriter(work.folder / FILE) as writer:
        for number, text in enumerate(read_documents(work.path("text"))):
            if number == following:
                following = next(left_out, None)
                continue
            writer.add(text)
            documents += 1
            text_bytes += len(text.encode())
    return {"documents": documents, "text_bytes": text_bytes}


def show(work: Work) -> Counts:
    """Write the beginnings of the documents that the settings name, in ascending order."""
    wanted: list[int] = work.settings["documents"]
    named = frozenset(wanted)
    found: dict[int, str] = {}
    for number, text in enumerate(read_documents(work.path("text"))):
        if number in named:
            found[number] = text[:EXCERPT]
        if number == wanted[-1]:
            break
    (work.folder / EXCERPTS).write_text(json.dumps(found), encoding="utf-8")
    return {"documents": len(found)}
