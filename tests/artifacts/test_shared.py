"""A `file://` store that two users share: each runs as a user of its own, under the umask of the agent."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.agent.folder import FileFolder
from aquarat_core.artifacts import ArtifactStore, CodeVersion, StoreError
from aquarat_core.artifacts.store import blob_key
from aquarat_core.maintenance.collect import DAY, find_garbage, remove
from aquarat_core.maintenance.verify import verify

ALICE, BOB, MALLORY, GROUP = 61_001, 61_002, 61_003, 61_010

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two users")


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that every user can enter, with a group's `store` in it; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="aquarat-shared-"))
    folder.chmod(0o755)
    (folder / "store").mkdir()
    os.chown(folder / "store", ALICE, GROUP)
    yield folder
    shutil.rmtree(folder)


def as_user(uid: int, act: Callable[[], Any], groups: tuple[int, ...] = (GROUP,), umask: int = 0o077) -> None:
    """Runs `act` in a process of that user; fails with its traceback."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.umask(umask)
            act()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as f:
        said = f.read()
    os.waitpid(child, 0)
    assert not said, said


def published(root: Path, asset: str, content: bytes) -> None:
    """Publishes a file of that content and one that all have, in a cache and source of this user's own."""
    own = Path(tempfile.mkdtemp())
    try:
        os.environ["AQUARAT_CACHE"] = str(own / "cache")
        (own / "files").mkdir()
        (own / "files" / "own").write_bytes(content)
        (own / "files" / "common").write_bytes(b"common")
        store = ArtifactStore.open(f"file://{root}/store")
        store.check_writable()
        artifact = store.publish(
            asset=asset, kind="k", directory=own / "files", config={}, profile="p", code=CodeVersion(version="v"),
            parents=(), metrics={}, seeds={}, run_id=f"run-{os.getuid()}")  # fmt: skip
        assert artifact.path("common").read_bytes() == b"common"
        assert store.latest(asset) == artifact and verify(store).problems == ()
    finally:
        shutil.rmtree(own)


def share(root: Path, mode: int) -> None:
    (root / "store").chmod(mode)


@pytest.mark.parametrize("mode", [0o2770, 0o770, 0o2775])
@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_two_users_publish_collect_and_verify_in_one_store(root: Path, mode: int, umask: int) -> None:
    share(root, mode)
    store = ArtifactStore.open(f"file://{root}/store")
    for uid, content in ((ALICE, b"a1"), (BOB, b"b1"), (ALICE, b"a2"), (BOB, b"b2")):
        as_user(uid, lambda content=content: published(root, "model", content), umask=umask)

    def collect() -> None:
        garbage = find_garbage(store, now=time.time() + 2 * DAY)
        assert len(remove(store, garbage)) == len(garbage.objects) >= 6
        assert verify(store).problems == ()

    as_user(BOB, collect, umask=umask)
    as_user(ALICE, lambda: published(root, "model", b"a3"), umask=umask)
    for path in [root / "store", *(root / "store").rglob("*")]:
        found = path.stat()
        assert found.st_gid == GROUP, path
        if path.is_dir():
            assert stat.S_IMODE(found.st_mode) & 0o777 == mode & 0o777, path
        else:
            assert found.st_mode & 0o044 == mode & 0o044, path


def test_a_host_of_another_user_writes_into_the_job_folder(root: Path) -> None:
    share(root, 0o2770)
    store = ArtifactStore.open(f"file://{root}/store")
    job = store.job("run", "step", 1)
    as_user(ALICE, lambda: job.create_json("spec.json", {"inputs": {}}))
    folder = FileFolder(root / "store" / job.prefix)
    heartbeat = {"state": "running", "sequence": 1, "chunks": 0}

    def host() -> None:
        assert folder.create("claim/node0.json", {"host": "h", "boot": "b"})
        folder.write("status/node0.json", heartbeat)

    def control() -> None:
        assert job.read_json("status/node0.json") == heartbeat
        job.write_json("status/node1.json", heartbeat)
        assert job.backend.delete(f"{job.prefix}/claim/node0.json")

    as_user(BOB, host)
    as_user(ALICE, control)
    as_user(BOB, lambda: folder.write("status/node1.json", heartbeat))


def test_another_users_damaged_blob_is_mended(root: Path) -> None:
    share(root, 0o2770)
    as_user(ALICE, lambda: published(root, "a", b"a"))
    store = ArtifactStore.open(f"file://{root}/store")
    (path,) = [root / "store" / blob_key(e.digest) for e in store.latest("a").manifest.files if e.path == "common"]
    path.write_bytes(b"damage")
    as_user(BOB, lambda: published(root, "b", b"b"))
    assert verify(store).problems == ()


def test_a_private_store_is_closed_to_others(root: Path) -> None:
    share(root, 0o700)
    as_user(ALICE, lambda: published(root, "a", b"a"), umask=0o000)
    for path in (root / "store").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path

    def look() -> None:
        with pytest.raises(StoreError, match=f"permission denied .{root}/store/refs/a/latest.json"):
            ArtifactStore.open(f"file://{root}/store").latest("a")

    as_user(BOB, look)


def test_who_is_not_in_the_group_reads_what_the_root_allows(root: Path) -> None:
    share(root, 0o2775)
    as_user(ALICE, lambda: published(root, "a", b"a"))
    store = ArtifactStore.open(f"file://{root}/store")

    def look() -> None:
        assert verify(store).problems == ()
        with pytest.raises(StoreError, match="permission denied"):
            store.check_writable()

    as_user(MALLORY, look, groups=())
