"""Servers of the tests' own, in a thread for as long as they are needed, and ports for those in processes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import HTTPServer
from pathlib import Path
from typing import TypeVar

import requests

from tests.patience import limit, wait_until

Server = TypeVar("Server", bound=HTTPServer)


def free_port() -> int:
    """A port of the loopback address that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Serves until the block ends; then the port is free and the thread has ended."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def hub_server(server: Path, folder: Path) -> Iterator[str]:
    """The address of the program `server`, which serves copies of the Hub's data sets; `folder` gets its port file."""
    port = folder / "port"
    process = subprocess.Popen(
        [sys.executable, str(server.resolve()), "--port-file", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def serves() -> bool:
        assert process.poll() is None, "the Hub server did not start"
        return port.is_file() and bool(port.read_text())

    try:
        wait_until(serves, 30, "the Hub server serves")
        yield f"http://127.0.0.1:{port.read_text()}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def dagster_ui(location: Sequence[str], log: Path, cwd: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The UI of a code location with its daemon, as `./run dev` starts them; its address."""
    port = free_port()
    command = [sys.executable, "-m", "aquarat_pipeline.web", "dev", "-h", "127.0.0.1", "-p", str(port), *location]
    # Dagster refuses to be told of the code location twice.
    env = {name: value for name, value in environment.items() if name != "DAGSTER_MODULE_NAME"}
    url = f"http://127.0.0.1:{port}"
    with answering(f"{url}/server_info", command, log, cwd, env):
        yield url


@contextmanager
def answering(
    url: str, command: Sequence[str | Path], log: Path, cwd: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """A program that answers at `url` until the block ends, started as in a script's background.

    Such a process ignores SIGINT. SIGTERM must end it all the same.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=out, stderr=out,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(url, timeout=limit(10)).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers, 120, f"{url} answers")
        yield
    finally:
        process.terminate()
        try:
            process.wait(limit(60))
        finally:
            process.kill()
