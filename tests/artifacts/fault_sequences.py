"""One publication, a second one, a claim and a read, with seeded faults between client and server; then the reckoning.

Whatever happens, an operation ends as it should or with a `StoreError`, and the store, looked at without the proxy,
holds nothing half-written and has lost nothing. Sizes are small so that files still are sent in parts and read in
ranges: `small_sizes` scales the constants down.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from aquarat_core.artifacts import ArtifactStore, StoreError
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.retry import Retry
from aquarat_core.artifacts.store import blob_key
from tests.artifacts.fault_proxy import FaultProxy, Seeded
from tests.artifacts.worker import publish

KIB = 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failed` holds what the operations said that did not succeed; `faults` counts what the proxy did."""

    failed: tuple[str, ...]
    faults: Counter[str]


@contextmanager
def small_sizes(deadline: float = 5.0) -> Iterator[None]:
    """Parts of 64 KiB, ranges of 32 KiB, streams of 48 KiB; tries that follow at once, for `deadline` seconds."""
    media = "aquarat_core.artifacts.gcs_media"
    retry = Retry(first=0.005, longest=0.02, deadline=deadline)
    sizes = {"WHOLE": 100 * KIB, "MIN_PART": 64 * KIB, "RANGE": 32 * KIB, "ALONE": 48 * KIB}
    with mock.patch.multiple(media, **sizes), mock.patch("aquarat_core.artifacts.gcs.RETRY", retry):
        yield


def run_sequence(seed: int, proxy: FaultProxy, uri: str, folder: Path, use_proxy: mock._patch) -> Outcome:
    """Carries out the sequence of that seed; every tenth meets a server that dies on the way and never comes back.

    `use_proxy` makes clients talk to the proxy while it is started. Raises `AssertionError` where the store is not
    what it must be.
    """
    rng = random.Random(seed)
    files = [_write(folder / str(n), rng) for n in range(2)]
    plan = Seeded(seed, rate=rng.uniform(0.05, 0.35), dies_at=rng.randrange(40) if seed % 10 == 9 else None)
    failed: list[str] = []
    first = publish(uri, str(folder / "0"), "direct").sha256
    with use_proxy:
        proxy.plan = plan
        published, claimed, read = None, None, None
        try:
            published = publish(uri, str(folder / "1"), "through-proxy").sha256
        except StoreError as e:
            failed.append(str(e))
        try:
            claimed = ArtifactStore.open(uri).job("run", "step", 1).create_json("claim.json", {"by": seed})
        except StoreError as e:
            failed.append(str(e))
        try:
            again = ArtifactStore.open(uri).get(first)
            read = {f.path: again.path(f.path).read_bytes() for f in again.manifest.files}
        except StoreError as e:
            failed.append(str(e))
        proxy.plan = lambda method, path: "pass"
    for message in failed:
        assert message.startswith(f"store {uri} does not answer as it should: "), message
        assert message.endswith("then run the same command again."), message
    assert len(failed) == 0 or seed % 10 == 9, failed
    if read is not None:
        assert read == files[0], "what was read is not what was published"
    _reckon(uri, first, published, claimed, seed)
    return Outcome(tuple(failed), plan.seen)


def _reckon(uri: str, first: str, published: str | None, claimed: bool | None, seed: int) -> None:
    """Looks at the store without the proxy."""
    store = ArtifactStore.open(uri)
    manifests = assert_sound(uri)
    assert first in manifests and (published is None or published in manifests)
    latest = store.latest("base_checkpoint").sha256
    assert latest in manifests and (published is None or latest == published), "the ref was lost"
    claim = store.job("run", "step", 1).read_json("claim.json")
    if claimed is True:
        assert claim == {"by": seed}
    elif claimed is False:
        assert claim is not None, "nobody holds the claim that was refused"


def assert_sound(uri: str, latest_of: str | None = None) -> list[str]:
    """Every manifest in the store, and every byte it names, is there and right; returns their hashes.

    With `latest_of` the latest checkpoint is the one of that run.
    """
    backend, store = open_backend(uri), ArtifactStore.open(uri)
    manifests = [Path(key).stem for key in backend.keys("manifests/")]
    for sha256 in manifests:
        manifest = store.get(sha256).manifest
        for entry in (*manifest.files, *manifest.records):
            assert backend.digest(blob_key(entry.digest)) == entry.digest, f"{entry.path} of {sha256} is not right"
    for asset in store.assets():
        latest = store.latest(asset)
        assert latest is not None and latest.sha256 in manifests, f"{asset}'s ref leads nowhere"
        assert latest_of in (None, latest.manifest.run_id), f"{asset}'s ref is not at {latest_of}"
    return manifests


def _write(folder: Path, rng: random.Random) -> dict[str, bytes]:
    files = {"model.safetensors": rng.randbytes(200 * KIB + rng.randrange(1000)), "config.json": rng.randbytes(60)}
    files["empty"] = b""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files
