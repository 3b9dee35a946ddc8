"""Start-up: Dagster's definitions, `aquarat --help`, `aquarat status`, `./run dev` and `aquarat serve`, in seconds.

Everything is a new process on a warm page cache, with byte code compiled, on a store and a Dagster home that the tests'
toy chain has filled; the served model has depth 4, width 256 and random weights. Measurements are made in turn, so that
a slow spell of the machine slows one run of each and not all of one. The value is the median, the spread's first number
the best. A UI is usable once a browser shows the asset graph's groups.

For what misses its goal, the modules whose import takes longest are printed: seconds of their own, without those that
they import.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import torch
from playwright.sync_api import Browser, expect, sync_playwright

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.config import TokenizerConfig
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.registry import STAGES
from aquarat_core.text.tokenizer import train_tokenizer
from benchmarks.harness import Against, BenchError, Result
from benchmarks.random_models import random_model
from tests.serving import free_port

RUNS = 5
SLOW_RUNS = 3
PATIENCE = 120
"""Seconds after which something that has not started is given up."""
MODULES = 12
"""That are printed of a slow import."""
AQUARAT = str(Path(sys.executable).with_name("aquarat"))
MADE = [name for name in STAGES if name not in ("eval_bundle", "pipeline_report", "model_release")]
_IMPORT = re.compile(r"import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)")


@dataclass(frozen=True, slots=True)
class Start:
    """Something that is started: its goal in seconds, how it is timed, and a program that imports what it imports."""

    name: str
    goal: float
    measure: Callable[[], float]
    imports: tuple[str, ...]
    runs: int = RUNS
    against: str | None = None
    """A program whose time, measured just before, is taken off."""
    seconds: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def result(self) -> Result:
        over = (
            Against(f"python -c '{self.against}'", sorted(self.theirs)[len(self.theirs) // 2]) if self.against else None
        )
        return Result(self.name, "s", tuple(self.seconds), over, goal=f"≤ {self.goal:g} s")


def run() -> list[Result]:
    """Measures all on this machine; what fails raises `BenchError` with what it said."""
    with tempfile.TemporaryDirectory(prefix="aquarat-startup-") as directory, _browser() as browser:
        home = Home(Path(directory))
        starts = _starts(home, browser)
        for turn in range(RUNS):
            for start in starts:
                if turn < start.runs:
                    before = home.timed(sys.executable, "-c", start.against) if start.against else 0.0
                    start.theirs.append(before)
                    start.seconds.append(start.measure() - before)
        results = [start.result() for start in starts]
        for start, result in zip(starts, results, strict=True):
            if not result.met:
                print(f"{start.name}: the longest imports of `python {' '.join(start.imports)}`")
                print("\n".join(f"  {seconds:6.3f} s  {module}" for module, seconds in home.imports(start.imports)))
        return results


def _starts(home: Home, browser: Browser) -> list[Start]:
    definitions, help_ = ("-c", "import aquarat"), ("-m", "aquarat_core.cli", "--help")
    status = ("-m", "aquarat_core.cli", "status")
    serve = ("-c", "import torch, aquarat_core.loading, aquarat_core.serving.app, uvicorn")
    return [
        Start("definitions, over `import dagster`", 0.5, lambda: home.timed(sys.executable, *definitions), definitions,
              against="import dagster"),
        Start("aquarat --help", 0.25, lambda: home.timed(AQUARAT, "--help"), help_),
        Start("aquarat status", 1.5, lambda: home.timed(AQUARAT, "status"), status),
        Start("./run dev, to the asset graph", 12, lambda: _seconds_to_the_graph(home, browser),
              ("-c", "import dagster_webserver.cli, dagster._daemon.cli, aquarat"), SLOW_RUNS),
        Start("aquarat serve, to the first token", 6, lambda: _seconds_to_a_token(home), serve, SLOW_RUNS),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was started, the file that has what it says, and when it was started."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.began

    def wait_for(self, url: str) -> None:
        """Until the address answers. Raises `BenchError` where the program ends before, or does not come to it."""
        while self.process.poll() is None and self.seconds < PATIENCE:
            with suppress(requests.ConnectionError):
                if requests.get(url, timeout=PATIENCE).ok:
                    return
            time.sleep(0.02)
        raise BenchError(f"{url} does not answer after {self.seconds:.0f} s: {self.log.read_text()[-2000:]}")


class Home:
    """A Dagster home with a finished toy chain, and a store with a checkpoint that can be served."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        home, store = folder / "home", f"file://{folder}/store"
        home.mkdir()
        shutil.copy(REPO_ROOT / "dagster_home/dagster.yaml", home)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "DAGSTER_HOME": str(home),
            "DAGSTER_MODULE_NAME": "aquarat",
            "AQUARAT_STORE": store,
            "AQUARAT_CACHE": str(folder / "cache"),
            "AQUARAT_PROFILE": "demo",
        }
        self.done(sys.executable, "-m", "tests.browser.toy_home", *MADE)
        _publish_model(ArtifactStore.open(store), folder)

    def done(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Raises `BenchError` with what the command said where it fails."""
        ended = subprocess.run(command, cwd=REPO_ROOT, env=self.environment, capture_output=True, text=True)
        if ended.returncode:
            raise BenchError(f"{' '.join(command)} ended with exit code {ended.returncode}: {ended.stderr[-2000:]}")
        return ended

    def timed(self, *command: str) -> float:
        """Seconds until the command has ended."""
        began = time.perf_counter()
        self.done(*command)
        return time.perf_counter() - began

    @contextmanager
    def started(self, *command: str) -> Iterator[Program]:
        """A program that runs until the block ends."""
        log = self.folder / "log"
        with log.open("wb") as out:
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=REPO_ROOT, env=self.environment, stdout=out, stderr=out)
        try:
            yield Program(process, log, began)
        finally:
            process.terminate()
            process.wait(PATIENCE)

    def imports(self, program: tuple[str, ...]) -> list[tuple[str, float]]:
        """The slowest imports of a Python program."""
        return slowest_imports(self.done(sys.executable, "-X", "importtime", *program).stderr)


def slowest_imports(report: str) -> list[tuple[str, float]]:
    """The modules whose own import takes longest, with seconds, in what Python prints with `-X importtime`."""
    found = [(match[2], int(match[1]) / 1e6) for match in _IMPORT.finditer(report)]
    return sorted(found, key=lambda one: -one[1])[:MODULES]


def _publish_model(store: ArtifactStore, folder: Path) -> None:
    made = folder / "served_checkpoint"
    made.mkdir()
    tokenizer = train_tokenizer(["What is 12 * 7? It is 84.\n"] * 10, TokenizerConfig(vocab_size=300))
    tokenizer.save(folder / "tokenizer.json")
    save_checkpoint(made, random_model(tokenizer.vocab_size, torch.float32), folder / "tokenizer.json")
    store.publish(
        asset="rl_checkpoint", kind="checkpoint", directory=made, config={}, profile="demo", run_id="startup",
        parents=[], metrics={}, code=CodeVersion(version="0" * 64), seeds={},
    )  # fmt: skip


@contextmanager
def _browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        raise BenchError("there is no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path)


def _seconds_to_the_graph(home: Home, browser: Browser) -> float:
    port = str(free_port())
    with home.started(str(REPO_ROOT / "run"), "dev", "--port", port) as dev, browser.new_context() as context:
        dev.wait_for(f"http://127.0.0.1:{port}/server_info")
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/asset-groups")
        expect(page.get_by_text("tokenizer", exact=True).last).to_be_visible(timeout=1000 * PATIENCE)
        return dev.seconds


def _seconds_to_a_token(home: Home) -> float:
    port = str(free_port())
    asked: dict[str, Any] = {"model": "rl_checkpoint", "stream": True, "max_tokens": 8}
    asked["messages"] = [{"role": "user", "content": "What is 12 * 7?"}]
    with home.started(AQUARAT, "serve", "rl_checkpoint", "--port", port) as server:
        url = f"http://127.0.0.1:{port}"
        server.wait_for(f"{url}/health")
        with requests.post(f"{url}/v1/chat/completions", json=asked, stream=True, timeout=PATIENCE) as answer:
            for line in answer.iter_lines():
                if line.startswith(b"data: {") and _has_text(json.loads(line.removeprefix(b"data: "))):
                    return server.seconds
    raise BenchError("aquarat serve sent no token")


def _has_text(event: dict[str, Any]) -> bool:
    return any(choice["delta"].get("content") for choice in event.get("choices", ()))
