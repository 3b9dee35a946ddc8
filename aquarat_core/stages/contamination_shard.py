"""One shard of the search for held-out questions in pretraining text."""

from __future__ import annotations

import json
from functools import lru_cache

from aquarat_core.data.documents import read_documents
from aquarat_core.sharding.spec import Counts, Work
from aquarat_core.tasks.duplicates import HeldOut

FILE = "contaminated.json"
"""A list of `[document, question, rule]`; documents are counted from 0, in ascending order."""


def search(work: Work) -> Counts:
    """List the documents of `text` that have a run of 13 words of one of the `questions`, a JSON object of texts by
    name, or the whole of a shorter one."""
    held_out = _held_out(work.path("questions").read_bytes())
    found = [
        [number, *copied]
        for number, text in enumerate(read_documents(work.path("text")))
        if (copied := held_out.copied(text))
    ]
    (work.folder / FILE).write_text(json.dumps(found), encoding="utf-8")
    return {"contaminated": len(found)}


@lru_cache(maxsize=1)
def _held_out(questions: bytes) -> HeldOut:
    """The index of the questions, made once for many shards."""
    return HeldOut(json.loads(questions))
