"""Exports a model with 1 GiB of float32 weights and copies a file of 1 GiB, in turn, in a process of its own.

`WORK` names the file `out` for what was measured; everything is written beside it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from aquarat_core.config import SPLIT_PATTERN, ModelConfig
from aquarat_core.config.accounting import parameters
from aquarat_core.exchange.huggingface import write_huggingface
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.tokenizer import N_BYTES, SPECIAL_TOKENS, Tokenizer

GIB = 1 << 30
RUNS = 11
VOCABULARY = 32_768
CONFIG = ModelConfig(depth=16, width=1_024, head_size=128, sequence_len=1_024, qk_scale=1.0)


def main() -> None:
    folder = Path(json.loads(os.environ["WORK"])["out"]).parent
    assert 4 * parameters(CONFIG, VOCABULARY) == GIB
    model = Transformer(CONFIG, VOCABULARY)
    pairs = [(i % N_BYTES, i // N_BYTES) for i in range(VOCABULARY - N_BYTES - len(SPECIAL_TOKENS))]
    tokenizer = Tokenizer(SPLIT_PATTERN, pairs)
    with (folder / "source").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(GIB // 64))
    measured: dict[str, list[float]] = {"seconds": [], "peak_mib": [], "copy_seconds": []}

    def export() -> None:
        start = _reset_peak()
        measured["seconds"].append(_timed(lambda: write_huggingface(folder / "release", model, tokenizer, 64)))
        measured["peak_mib"].append(_status("VmHWM") - start)
        shutil.rmtree(folder / "release")

    def copy() -> None:
        measured["copy_seconds"].append(_timed(lambda: shutil.copyfile(folder / "source", folder / "copy")))
        (folder / "copy").unlink()

    # Once each before it counts: imports, and memory for the page cache that a virtual machine has yet to get.
    export()
    copy()
    for values in measured.values():
        values.clear()
    for i in range(RUNS):
        for step in (export, copy) if i % 2 == 0 else (copy, export):
            step()
    Path(json.loads(os.environ["WORK"])["out"]).write_text(json.dumps(measured))


def _timed(work: Callable[[], object]) -> float:
    os.sync()  # nothing dirty at the start
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _reset_peak() -> float:
    """Lets VmHWM begin again at what is resident now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
