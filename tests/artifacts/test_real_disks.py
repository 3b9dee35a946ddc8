"""Disks that are full and disks that are read-only: real file systems of a few MiB, mounted for the test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore, StoreError
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.errors import HostDiskFullError
from aquarat_core.cli import main
from aquarat_core.maintenance.copying import pull
from aquarat_core.maintenance.verify import verify

from .conftest import Publish

BIG = {"model.safetensors": bytes(range(256)) * 24 * 1024, "config.json": b"{}"}
"""6 MiB: more than one step of a copy, and more than the disk has."""


def mount(folder: Path, *options: str) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], check=True, capture_output=True, text=True
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, "size=5m")
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"file systems cannot be mounted here: {getattr(e, 'stderr', e)}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_store_on_a_full_disk_stays_what_it_was(disk: Path, publish: Publish) -> None:
    store = ArtifactStore.open(f"file://{disk}/store")
    before = publish(store, "x", {"a": b"1"})
    keys = list(store.backend.keys(""))
    with pytest.raises(StoreError, match=r"the disk is full.*Set AQUARAT_STORE .* or free the space") as full:
        publish(store, "x", BIG)
    assert not isinstance(full.value, HostDiskFullError), "another host would find the store as full"
    kept = {key for key in store.backend.keys("") if not key.startswith("blobs/")}
    assert kept == {key for key in keys if not key.startswith("blobs/")}, "a manifest, a ref or something in tmp/"
    assert store.latest("x").sha256 == before.sha256 and verify(store).problems == ()
    mount(disk, "remount", "size=20m")
    after = publish(store, "x", BIG)
    assert store.latest("x").sha256 == after.sha256 and verify(store).problems == ()


def test_a_store_that_is_read_only_is_read_and_not_changed(
    disk: Path, publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ArtifactStore.open(f"file://{disk}/store")
    artifact = publish(store, "x", {"a": b"1"})
    keys = list(store.backend.keys(""))
    mount(disk, "remount", "ro")
    assert store.latest("x").path("a").read_bytes() == b"1"
    for command in (["ls"], ["lineage", "x"], ["verify"], ["gc", "--without-dagster"]):
        assert main(["store", *command, "--store", store.uri]) == 0
    assert main(["store", "pull", "x", "--to", str(tmp_path / "got"), "--store", store.uri]) == 0
    assert (tmp_path / "got" / f"x-{artifact.sha256[:12]}" / "a").read_bytes() == b"1"
    for use in (store.check_writable, lambda: publish(store, "x", {"a": b"2"})):
        with pytest.raises(StoreError, match=r"the file system is read-only.*Set AQUARAT_STORE"):
            use()
    capsys.readouterr()
    for command in (["pin", "x"], ["gc", "--without-dagster", "--delete"]):
        assert main(["store", *command, "--store", store.uri]) == 2
        assert "the file system is read-only" in capsys.readouterr().err
    assert list(store.backend.keys("")) == keys and store.latest("x").sha256 == artifact.sha256


@pytest.mark.parametrize("kind", ["file", "gs"])
def test_what_is_fetched_onto_a_full_disk_is_not_taken_for_whole(
    kind: str, disk: Path, publish: Publish, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = request.getfixturevalue("gs_uri") if kind == "gs" else f"file://{disk.parent}/store"
    artifact = publish(ArtifactStore.open(uri), "x", BIG)
    with pytest.raises(StoreError, match=rf"folder {disk} cannot be used: the disk is full.*Name another folder"):
        pull(artifact, disk)
    folder = disk / f"x-{artifact.sha256[:12]}"
    assert not (folder / "model.safetensors").exists() and not (folder / "manifest.json").exists()
    mount(disk, "remount", "size=10m")
    assert (pull(artifact, disk) / "model.safetensors").read_bytes() == BIG["model.safetensors"]

    monkeypatch.setenv("AQUARAT_CACHE", str(disk / "cache"))
    fresh = ArtifactStore.open(uri).latest("x")
    with pytest.raises(HostDiskFullError, match=rf"cache {disk}/cache, .* the disk is full.*Set AQUARAT_CACHE"):
        fresh.path("model.safetensors")
    assert list((disk / "cache" / "blobs").rglob("*.*")) == []
    mount(disk, "remount", "size=20m")
    assert fresh.path("model.safetensors").read_bytes() == BIG["model.safetensors"]


def test_a_copy_goes_on_where_the_kernel_does_not_copy(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a source that `sendfile` refuses: one in /proc, whose length nobody knows before."""
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    backend = open_backend(store.uri)
    digest = backend.add_file(Path("/proc/cpuinfo"), lambda digest: f"blobs/{digest.sha256}")
    (key,) = backend.keys("blobs/")
    assert backend.digest(key) == digest and digest.size > 100

    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("os.sendfile", refuse)
    artifact = publish(store, "x", BIG)
    assert artifact.path("model.safetensors").read_bytes() == BIG["model.safetensors"]
