"""One transfer of the store bench, in a separate process: `WHAT URI SOURCE TARGET`; prints its cost as JSON.

Not a bench by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.hashing import Digest
from tests.artifacts.worker import peak_memory, reset_peak_memory


def key(digest: Digest) -> str:
    return f"blobs/{digest.sha256}"


def up(uri: str, source: Path, target: Path) -> Callable[[], None]:
    """Hashes and stores the file as a publication does, durable, with nothing there yet."""
    backend = open_backend(uri)
    for stat in backend.stats("blobs/"):
        backend.delete(stat.key)
    return lambda: backend.add_file(source, key)


def down(uri: str, source: Path, target: Path) -> Callable[[], None]:
    """Fetches and hashes the file as the cache does."""
    backend = open_backend(uri)
    (stat,) = backend.stats("blobs/")
    sha256 = stat.key.rpartition("/")[2]

    def fetch() -> None:
        assert backend.get_file(stat.key, target).sha256 == sha256

    return fetch


def copy(uri: str, source: Path, target: Path) -> Callable[[], None]:
    """What a plain copy and a hash of it take, with nothing made durable."""
    return lambda: _copy(source, target, durable=False)


def copy_durable(uri: str, source: Path, target: Path) -> Callable[[], None]:
    """The same with file and directory fsynced, as ours are."""
    return lambda: _copy(source, target, durable=True)


def _copy(source: Path, target: Path, durable: bool) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as f:
        if durable:
            os.fsync(f.fileno())
            folder = os.open(target.parent, os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
        hashlib.file_digest(f, "sha256")


def _bucket(uri: str) -> tuple[object, str]:
    import requests.adapters
    from google.cloud import storage

    client = storage.Client(project="bench")
    client._http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
    name, _, prefix = uri.removeprefix("gs://").partition("/")
    return client.bucket(name), prefix


def manager_up(uri: str, source: Path, target: Path) -> Callable[[], None]:
    """XML multipart uploads, its other way, are not known to the emulator."""
    from google.cloud.storage import transfer_manager

    bucket, prefix = _bucket(uri)
    pairs = [(str(source), bucket.blob(f"{prefix}/manager"))]
    return lambda: transfer_manager.upload_many(pairs, worker_type="thread", raise_exception=True)


def manager_down(uri: str, source: Path, target: Path) -> Callable[[], None]:
    """In one stream up to 32 MiB and in chunks above; processes, its default and faster than its threads."""
    from google.cloud.storage import transfer_manager

    bucket, prefix = _bucket(uri)
    blob = bucket.blob(f"{prefix}/manager")
    blob.reload()
    if blob.size <= 32 << 20:
        return lambda: transfer_manager.download_many([(blob, str(target))], worker_type="thread", raise_exception=True)
    return lambda: transfer_manager.download_chunks_concurrently(blob, str(target))


def _gcsfs() -> object:
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    import gcsfs

    return gcsfs.GCSFileSystem(token="anon", project="bench", endpoint_url=os.environ["STORAGE_EMULATOR_HOST"])


def gcsfs_up(uri: str, source: Path, target: Path) -> Callable[[], None]:
    fs = _gcsfs()
    return lambda: fs.put_file(str(source), f"{uri.removeprefix('gs://')}/gcsfs")


def gcsfs_down(uri: str, source: Path, target: Path) -> Callable[[], None]:
    fs = _gcsfs()
    return lambda: fs.get_file(f"{uri.removeprefix('gs://')}/gcsfs", str(target))


ACTIONS = (up, down, copy, copy_durable, manager_up, manager_down, gcsfs_up, gcsfs_down)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main(what: str, uri: str, source: str, target: str) -> None:
    work = next(action for action in ACTIONS if action.__name__ == what)(uri, Path(source), Path(target))
    # What was measured before is not paid for now: its dirty pages, and what the target holds.
    Path(target).unlink(missing_ok=True)
    os.sync()
    memory, cpu, began = reset_peak_memory(), _cpu(), time.monotonic()
    work()
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "cpu": _cpu() - cpu, "memory": peak_memory() - memory}))


if __name__ == "__main__":
    main(*sys.argv[1:])
