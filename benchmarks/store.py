"""The artifact store: transfers compared with a plain copy and the bucket's own tools, and many small artifacts.

Files of 16 MiB, 256 MiB and 2 GiB (`AQUARAT_BENCH_STORE_MIB` names others, such as `16,256`; with
`AQUARAT_BENCH_STORE_SMALL=0` the small artifacts are left out), stored and read back on `file://` and on
an emulator of Google Cloud Storage. Baselines, interleaved with ours in the same run: on `file://` a plain copy and
then one SHA-256 pass over it, which leaves the bytes in the page cache, and the same with an fsync, which is what ours
does going up; on the emulator google-cloud-storage's transfer manager (its fastest way down) and gcsfs, neither of
which computes a SHA-256, as ours does. The source is in the page cache, nothing is dirty at the start. Each
measurement is a process of its own, so that its CPU time and peak memory are its own too; the clock starts when its
libraries are imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from uuid import uuid4

import requests

from aquarat_core.artifacts import ArtifactStore, CodeVersion, Digest, FileEntry, Manifest, Parent
from aquarat_core.artifacts.hashing import digest_bytes
from aquarat_core.artifacts.records import ref_bytes
from aquarat_core.artifacts.store import blob_key
from aquarat_core.artifacts.survey import all_artifacts
from aquarat_core.artifacts.transfer import parallel_map
from aquarat_core.maintenance.verify import verify
from aquarat_core.settings import REPO_ROOT
from benchmarks.harness import Against, BenchError, Result
from tests.artifacts.emulator import BUCKET, emulator

MIB = 1 << 20
SIZES = (16, 256, 2048)
SMALL = (1_000, 10_000)
"""Artifacts: few, and many."""
LARGE_MIB = 4096
"""For which memory alone is measured, and on `file://` alone: the emulator keeps what it is sent in memory."""
MAX_FOR_GCSFS = 512
"""Larger files would take it minutes that the bench has not."""
MAX_MEMORY = "≤ 256 MiB"


def run() -> list[Result]:
    sizes = [int(n) for n in os.environ.get("AQUARAT_BENCH_STORE_MIB", "").split(",") if n] or list(SIZES)
    results: list[Result] = []
    for size in sizes:
        # A new emulator for each size: it keeps much of what it was sent in memory.
        with _scratch() as scratch, emulator(scratch / "objects") as url:
            os.environ["STORAGE_EMULATOR_HOST"] = url
            results += _size(size, scratch)
    if os.environ.get("AQUARAT_BENCH_STORE_SMALL", "1") == "1":
        with _scratch() as scratch:
            results += _many_small(scratch)
    if max(sizes) == max(SIZES):
        with _scratch() as scratch:
            results += _large(scratch)
    return results


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aquarat-bench-store-") as folder:
        yield Path(folder)


# --- files ----------------------------------------------------------------------------------------------------------


def _size(mib: int, scratch: Path) -> list[Result]:
    runs = 3 if mib <= 512 else 1
    source = scratch / "source"
    with source.open("wb") as f:
        for _ in range(max(1, mib // 16)):
            f.write(os.urandom(min(mib, 16) * MIB))
    local, bucket = f"file://{scratch}/store", f"gs://{BUCKET}/{uuid4().hex}"
    measure = partial(_measure, source=source, scratch=scratch)
    plain = {"plain copy and a SHA-256 pass": lambda: measure("copy", "")}
    durable = {"the same, fsynced": lambda: measure("copy_durable", "")}
    name = f"file/{mib}MiB"
    results = _against(f"{name}/up", mib, 3, lambda: measure("up", local), plain | durable, "≥ 0.8")
    results += _against(f"{name}/down", mib, 3, lambda: measure("down", local), plain, "≥ 0.8")
    for way in ("up", "down"):
        others = {"google-cloud-storage transfer manager": lambda way=way: measure(f"manager_{way}", bucket)}
        if mib <= MAX_FOR_GCSFS:
            others["gcsfs"] = lambda way=way: measure(f"gcsfs_{way}", bucket)
        results += _against(f"gs/{mib}MiB/{way}", mib, runs, lambda way=way: measure(way, bucket), others, "≥ 1")
    return results


def _large(scratch: Path) -> list[Result]:
    """Peak memory above the start for a file that is larger than all else, whose bytes are zeros."""
    source = scratch / "source"
    with source.open("wb") as f:
        f.truncate(LARGE_MIB * MIB)
    taken = {way: _measure(way, f"file://{scratch}/store", source, scratch) for way in ("up", "down")}
    name = f"file/{LARGE_MIB}MiB"
    return _told(
        [Result(f"{name}/{way}/peak_memory", "MiB", (t["memory"],), goal=MAX_MEMORY) for way, t in taken.items()]
    )


def _against(
    name: str,
    mib: int,
    runs: int,
    ours: Callable[[], dict[str, float]],
    others: dict[str, Callable[[], dict[str, float]]],
    goal: str,
) -> list[Result]:
    """MiB/s of ours, as a ratio to each of the others', and what ours costs; the goal is about the first of them."""
    taken: dict[str, list[dict[str, float]]] = {"ours": [], **{other: [] for other in others}}
    everyone = {"ours": ours, **others}
    for n in range(runs):
        for who in everyone if n % 2 == 0 else reversed(everyone):
            taken[who].append(everyone[who]())
    mine = taken["ours"]
    speeds = tuple(mib / m["seconds"] for m in mine)
    results = []
    for n, other in enumerate(others):
        ratio = median(theirs["seconds"] / m["seconds"] for m, theirs in zip(mine, taken[other], strict=True))
        speed = median(mib / theirs["seconds"] for theirs in taken[other])
        label = name if n == 0 else f"{name}/against_{other}"
        results.append(Result(label, "MiB/s", speeds, Against(other, speed), ratio, goal if n == 0 else None))
    first = next(iter(others))
    cpu, their_cpu = ([t["cpu"] for t in taken[who]] for who in ("ours", first))
    memory, their_memory = ([t["memory"] for t in taken[who]] for who in ("ours", first))
    against = Against(first, median(their_cpu))
    results.append(Result(f"{name}/cpu", "s", tuple(cpu), against, median(cpu) / against.value))
    against = Against(first, median(their_memory))
    results.append(Result(f"{name}/peak_memory", "MiB", tuple(memory), against, goal=MAX_MEMORY))
    return _told(results)


def _told(results: list[Result]) -> list[Result]:
    """Says on standard error what was measured, for there are minutes between."""
    for r in results:
        print(f"{r.name}: {r.value:.4g} {r.unit}{'' if r.ratio is None else f', ratio {r.ratio:.3g}'}", file=sys.stderr)
    return results


def _measure(what: str, uri: str, source: Path, scratch: Path) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory above the start (MiB) of one transfer in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.store_worker", what, uri, str(source), str(scratch / "target")]
    # Beside heavy load the emulator loses sessions of the transfer manager, which then gives up.
    for _ in range(3 if "_" in what else 1):
        done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            break
    else:
        raise BenchError(f"{what} of {source.stat().st_size // MIB} MiB at {uri} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


# --- many small artifacts -------------------------------------------------------------------------------------------


def _many_small(scratch: Path) -> list[Result]:
    """Listing and verifying: seconds for so many artifacts, and how they grow from fewer."""
    looks = {"list": lambda store: len(all_artifacts(store)), "verify": lambda store: verify(store).artifacts}
    results = []
    with emulator(scratch / "objects") as url:
        os.environ["STORAGE_EMULATOR_HOST"] = url
        for kind, base in (("file", f"file://{scratch}/small"), ("gs", f"gs://{BUCKET}/small")):
            few, many = SMALL
            seconds: dict[tuple[str, int], float] = {}
            for number in (few, many):
                _fill(f"{base}-{number}", number, url)
                for what, look in looks.items():
                    began = time.monotonic()
                    found = look(ArtifactStore.open(f"{base}-{number}"))
                    seconds[what, number] = time.monotonic() - began
                    if found != number:
                        raise BenchError(f"{what} found {found} of {number} artifacts in {base}-{number}")
            for what in looks:
                times, took, scaled = many / few, seconds[what, many], seconds[what, few] * many / few
                against = Against(f"{few:,} artifacts, times {times:g}", scaled)
                results.append(Result(f"{kind}/{many}_artifacts/{what}", "s", (took,), against, took / scaled, "≤ 1.5"))
    return _told(results)


def _fill(uri: str, number: int, url: str) -> None:
    """Artifacts of one small file each, nine of ten made from the one before, and a ref for each of 500 assets.

    Written past the store, whose fsyncs and preconditions would take longer than all that is measured.
    """
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=16))

    def put(item: tuple[str, bytes]) -> None:
        key, data = item
        if uri.startswith("file://"):
            path = Path(uri.removeprefix("file://")) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        else:
            name = f"{uri.removeprefix(f'gs://{BUCKET}/')}/{key}"
            parameters = {"uploadType": "media", "name": name}
            session.post(f"{url}/upload/storage/v1/b/{BUCKET}/o", params=parameters, data=data).raise_for_status()

    before: Manifest | None = None
    objects: dict[str, bytes] = {}
    for n in range(number):
        digest = digest_bytes(b"%d" % n)
        before = _manifest(n, digest, (_parent(before),) if before and n % 10 else ())
        objects[blob_key(digest)] = b"%d" % n
        objects[f"manifests/{before.sha256}.json"] = before.to_bytes()
        ref = ref_bytes(before.asset, before.sha256, before.data_version)
        objects[f"refs/{before.asset}/latest.json"] = ref
    parallel_map(put, objects.items(), 8)


def _manifest(n: int, digest: Digest, parents: tuple[Parent, ...]) -> Manifest:
    entry = FileEntry.of("file", digest)
    return Manifest.create(
        asset=f"asset{n % 500}", kind="dataset", files=(entry,), config={"n": n}, profile="bench",
        code=CodeVersion(version="0" * 64), parents=parents, metrics={}, seeds={}, libraries={}, hardware={},
        run_id=f"run-{n}",
    )  # fmt: skip


def _parent(manifest: Manifest) -> Parent:
    return Parent(
        asset=manifest.asset,
        manifest_sha256=manifest.sha256,
        data_version=manifest.data_version,
        run_id=manifest.run_id,
    )
