"""One measurement of `data-scale` in a process of its own; what to do is in WORK."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.config import TokenizerConfig
from aquarat_core.data.documents import write_documents
from aquarat_core.sharding.driver import make_shards
from aquarat_core.sharding.executor import Executor
from aquarat_core.sharding.processes import Processes
from aquarat_core.sharding.ray_cluster import RayCluster
from aquarat_core.sharding.records import ShardStore
from aquarat_core.sharding.spec import Counts, ShardSpec, Source, Work
from aquarat_core.text.tokenizer import TOKENIZER_FILE, train_tokenizer
from benchmarks.harness import BenchError

CODE = "1" * 64
ENCODE = "aquarat_core.stages.token_shard:encode"
VOCABULARY = 32_768
CORPUS_BYTES = 40_000_000
TRAIN_CHARS = 20_000_000


def nothing(work: Work) -> Counts:
    """A shard function that makes no file."""
    return {"number": work.settings["number"]}


def main() -> None:
    work = json.loads(os.environ["WORK"])
    folder = Path(work["folder"])
    os.environ["AQUARAT_CACHE"] = str(folder / "cache")
    store = ArtifactStore.open(f"file://{folder}/store")
    found = {"make": _make, "encode": _encode, "empty": _empty, "find": _empty}[work["do"]](store, folder, work)
    Path(work["out"]).write_text(json.dumps(found))


def _make(store: ArtifactStore, folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    """The text and the tokenizer. Each shard begins at another document, so that no two are equal and made once."""
    texts = _texts()
    made = folder / "made"
    made.mkdir()
    for number in range(work["shards"]):
        taken: list[str] = []
        size, at = 0, number * len(texts) // work["shards"]
        while size < work["bytes"]:
            taken.append(texts[at % len(texts)])
            size += len(taken[-1].encode())
            at += 1
        write_documents(made / f"train-{number:05d}.parquet", taken)
    publish(store, "pretrain_text", made)
    shutil.rmtree(made)
    made.mkdir()
    config = TokenizerConfig(vocab_size=VOCABULARY, max_chars=TRAIN_CHARS)
    train_tokenizer(texts, config).save(made / TOKENIZER_FILE)
    publish(store, "tokenizer", made)
    shutil.rmtree(made)
    return {}


def _texts() -> list[str]:
    """The sources of Python's library and of the installed packages, up to `CORPUS_BYTES`."""
    found: list[str] = []
    size = 0
    for folder in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(folder)).rglob("*.py")):
            found.append(path.read_text(encoding="utf-8", errors="replace"))
            size += len(found[-1])
            if size > CORPUS_BYTES:
                return found
    return found


def publish(store: ArtifactStore, asset: str, folder: Path) -> Artifact:
    """The files of a folder as an artifact."""
    return store.publish(
        asset=asset, kind="dataset", directory=folder, config={}, profile="bench", code=CodeVersion(version=CODE),
        parents=(), metrics={}, seeds={}, run_id="bench",
    )  # fmt: skip


def _encode(store: ArtifactStore, folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    text, tokenizer = store.resolve("pretrain_text"), store.resolve("tokenizer")
    shared = Source(tokenizer, tokenizer.manifest.files[0], shared=True)
    wanted = [
        ShardSpec(f.path, ENCODE, CODE, inputs={"text": Source(text, f), "tokenizer": shared})
        for f in text.manifest.files
    ]
    results = ShardStore(_results(folder, again=False), "bench")
    # Ray's cluster is here before time is taken; processes start with the first shards.
    executor = RayCluster(results, "local", work["processes"]) if work.get("ray") else None
    if len({file.sha256 for file in text.manifest.files}) < len(wanted):
        raise BenchError("some shards are equal, and would be made once")
    return _timed(results, wanted, work["processes"], executor) | {"bytes": work["shards"] * work["bytes"]}


def _empty(store: ArtifactStore, folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    del store
    function = "benchmarks.data_scale_worker:nothing"
    wanted = [ShardSpec(f"shard-{n}", function, CODE, settings={"number": n}) for n in range(work["shards"])]
    return _timed(ShardStore(_results(folder, again=work["do"] == "find"), "bench"), wanted, work["processes"])


def _results(folder: Path, *, again: bool) -> ArtifactStore:
    """The store of the results; an empty one unless they are to be found again."""
    if not again:
        shutil.rmtree(folder / "results", ignore_errors=True)
    return ArtifactStore.open(f"file://{folder}/results")


def _timed(
    shards: ShardStore, wanted: Sequence[ShardSpec], processes: int, executor: Executor | None = None
) -> dict[str, Any]:
    """Seconds, processor seconds of this process and of its workers, and peak memory in MB of it and of its largest
    worker. The executor is processes by default."""
    making = executor or Processes(shards, processes)
    largest, last = 0.0, 0.0

    def watch(done: int, total: int) -> None:
        nonlocal largest, last
        if isinstance(making, Processes) and (done == total or time.monotonic() - last > 0.2):
            last = time.monotonic()
            largest = max([largest, *map(_peak, making.process_ids)])

    began, used, by_workers = time.perf_counter(), time.process_time(), _by_children()
    make_shards(wanted, shards, lambda missing: making, progress=watch)
    return {
        "seconds": time.perf_counter() - began, "cpu": time.process_time() - used, "shards": len(wanted),
        "workers_cpu": _by_children() - by_workers,
        "memory": _peak(os.getpid()), "worker": largest,
    }  # fmt: skip


def _by_children() -> float:
    """Processor seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak(pid: int) -> float:
    """The largest resident size that a process has had, in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
