"""Several processes that ask one provider as often as they may, in real time, and share one file."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aquarat_pipeline.renting.clouds.cloud import connect
from aquarat_pipeline.renting.clouds.model import Limits
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.faults.control_host import account_of, surroundings_of


def storm(folder: Path, processes: int = 3, requests: int = 8) -> tuple[int, int]:
    """How many requests came, and how many of them too soon."""
    clock: Any = SimpleNamespace(now=time.time)
    with FakeLambda(clock).serve() as fake:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_ask, [folder] * processes, [fake.address] * processes, [requests] * processes))
        return len(fake.requests), fake.too_fast


def _ask(folder: Path, address: str, requests: int) -> None:
    around = replace(surroundings_of(folder, time.time, time.sleep), limits=Limits())
    cloud = connect(account_of("lambda", address), around)
    for number in range(requests):
        (cloud.offers if number % 2 else cloud.list)()
