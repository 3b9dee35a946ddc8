"""What the tests of this folder run in processes of their own: `worker.py ACTION STORE ARGUMENTS`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.artifacts.backends import open_backend


def publish(uri: str, directory: str, run_id: str) -> Artifact:
    return ArtifactStore.open(uri).publish(
        asset="base_checkpoint",
        kind="checkpoint",
        directory=Path(directory),
        config={},
        profile="demo",
        code=CodeVersion(version="f" * 64),
        parents=[],
        metrics={},
        seeds={},
        run_id=run_id,
    )


def publish_often(uri: str, directory: str, worker: str, rounds: str) -> None:
    for number in range(int(rounds)):
        publish(uri, directory, f"{worker}-{number}")


def publish_and_die(uri: str, directory: str, run_id: str, at: str) -> None:
    """Kills itself before the `at`-th operation that can change the store; prints their number if it survives."""
    done = 0

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done == int(at):
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return call

    if uri.startswith("file://"):
        for name in ("fsync", "link", "replace", "fchmod", "mkdir", "unlink"):
            setattr(os, name, counted(getattr(os, name)))
    else:
        import requests

        requests.Session.send = counted(requests.Session.send)
    publish(uri, directory, run_id)
    print(done)


def claim(uri: str, worker: str, rounds: str) -> None:
    """Prints the rounds whose claim this process won."""
    for number in range(int(rounds)):
        job = ArtifactStore.open(uri).job("run", "step", number)
        if job.create_json("claim.json", {"worker": worker}):
            print(number)


def increment(uri: str, rounds: str) -> None:
    """Adds `rounds` to the number in `refs/counter`, one by one."""
    backend = open_backend(uri)
    for _ in range(int(rounds)):
        while True:
            seen = backend.read("refs/counter")
            if backend.swap("refs/counter", str(int(seen.data) + 1).encode(), seen.version):
                break


def memory(uri: str, directory: str, name: str) -> None:
    """Prints by how many MiB this process's peak memory rises while a file is published and read back."""
    import google.cloud.storage  # noqa: F401

    before = reset_peak_memory()
    publish(uri, directory, "run").path(name)
    print(round(peak_memory() - before))


def reset_peak_memory() -> float:
    """Makes the peak what the process has now, in MiB: rusage would go on from the peak of the parent."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> float:
    """Peak resident memory of this process in MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def read(uri: str, *assets: str) -> None:
    """Prints the local paths of the assets' files."""
    for asset in assets:
        print(ArtifactStore.open(uri).latest(asset).path("file"), flush=True)


def hold(uri: str, asset: str) -> None:
    """As `read`, and then lives on until it is killed or its parent is gone."""
    read(uri, asset)
    sys.stdin.read()


def count_fetches(uri: str, asset: str) -> None:
    """Prints how often this process had to ask the store for the asset's file."""
    store = ArtifactStore.open(uri)
    artifact = store.latest(asset)
    fetches = 0
    get_file = store.backend.get_file

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal fetches
        fetches += 1
        return get_file(*arguments, **options)

    store.backend.get_file = counted
    artifact.path("file")
    print(fetches)


ACTIONS = (publish_often, publish_and_die, claim, increment, memory, read, hold, count_fetches)

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    next(action for action in ACTIONS if action.__name__ == name)(*arguments)
