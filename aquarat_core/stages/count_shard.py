"""One shard of the tokenizer's training text: how often each piece occurs in it."""

from __future__ import annotations

from pathlib import Path

import rustbpe_py

from aquarat_core.data.documents import read_columns
from aquarat_core.sharding.spec import Counts, Work
from aquarat_core.text.counting import Budget
from aquarat_core.text.tokenizer import SPECIAL_TOKENS

FILE = "pieces.bin"
"""What `PieceCounter.from_bytes` reads."""


def count(work: Work) -> Counts:
    """Count the pieces in the first characters of the documents `text`, as many as `work.settings` says."""
    counter = rustbpe_py.PieceCounter(work.settings["pattern"], list(SPECIAL_TOKENS), work.threads)
    budget = Budget(work.settings["max_chars"], work.settings["max_chars_per_document"])
    counter.add(budget.take(read_columns(work.path("text"))))
    Path(work.folder / FILE).write_bytes(counter.to_bytes())
    return {"characters": budget.done}
