"""A really running `aquarat serve`, with a small model of random weights that calls the calculator now and then."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import aquarat_core as aq
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.settings import REPO_ROOT
from aquarat_core.text.tokenizer import TOKENIZER_FILE
from tests.factories import calling_model, tokenizer
from tests.patience import limit, wait_until
from tests.serve.web_store import WebStore, serving_pages


@dataclass(frozen=True, slots=True)
class Server:
    """A server's process and address."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Start = Callable[..., "contextmanager[Server]"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder, called `toy`."""
    place = tmp_path_factory.mktemp("served")
    tokenizer().save(place / TOKENIZER_FILE)
    (place / "toy").mkdir()
    save_checkpoint(place / "toy", calling_model(), place / TOKENIZER_FILE)
    return place / "toy"


@pytest.fixture(scope="session")
def model(folder: Path) -> aq.Model:
    """The same model, in this process."""
    return aq.load(folder, dtype="float32")


@contextmanager
def running(
    what: Sequence[str | Path], log: Path, *options: str, environment: dict[str, str] | None = None
) -> Generator[Server]:
    """`aquarat serve` until the block ends."""
    command = [sys.executable, "-m", "aquarat_core.cli", "serve", *map(str, what), "--port", "0", *options]
    env = {name: value for name, value in os.environ.items() if name != "AQUARAT_SERVE_TOKEN"}
    env |= {"AQUARAT_STORE": f"file://{log.parent}/store", "OMP_NUM_THREADS": "1"} | (environment or {})
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPO_ROOT, env=env, stdout=out, stderr=out)
    found: list[str] = []

    def serves() -> bool:
        assert process.poll() is None, log.read_text()
        found[:] = re.findall(r"serving on http://\S+:(\d+)", log.read_text())
        return bool(found)

    try:
        wait_until(serves, 60, "the server serves")
        yield Server(process, int(found[0]), log)
    finally:
        process.terminate()
        try:
            process.wait(limit(20))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> WebStore:
    """A store with two checkpoints and the reports on them."""
    folder = tmp_path_factory.mktemp("web")
    return WebStore(f"file://{folder}/store", folder / "scratch")


@pytest.fixture(scope="module")
def url(web: WebStore) -> Iterator[str]:
    """The address of a server with all pages of that store."""
    with serving_pages(web) as address:
        yield address


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One in float32, so that no answer depends on what else is in the batch."""
    with running([folder], tmp_path_factory.mktemp("server") / "log", "--dtype", "float32") as started:
        yield started
