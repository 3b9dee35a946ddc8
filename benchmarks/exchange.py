"""Seconds that a training step waits for the exchange between two hosts, and the bytes that it sends, counted.

Two network namespaces are the hosts; the link between them carries `RATE`, by a token bucket in each direction. With
one rank on each, an exchange all at once after the backward pass (as it was before there were buckets: one all-reduce
and one all-gather in float32) is compared with buckets sent during the pass and with weights in bfloat16. With two
ranks on each, one level is compared with two. All variants of a job take turns, step by step, in the same processes, so
what slows the machine slows all of them. Bytes are those that the first host's interface has sent, against the formula
of docs/training.md; headers are counted and not in the formula. Needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from aquarat_core.config import LaunchConfig, ModelConfig, OptimConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim.groups import parameter_groups
from aquarat_core.runtime.distributed import World, distributed_world
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.command import Meeting, torchrun
from aquarat_core.training.buckets import GradientExchange
from aquarat_core.training.loss import accumulate_loss
from aquarat_core.training.optimizer import ShardedOptimizer
from aquarat_core.training.shards import FLOAT_BYTES, bytes_across, capacity
from aquarat_core.training.transfers import Transfer
from benchmarks.harness import Against, BenchError, Result, unmeasured

RATE = "250mbit"
MODEL: dict[str, Any] = {"depth": 4, "width_per_layer": 64, "head_size": 64, "sequence_len": 256}
VOCABULARY, ROWS, BUCKET_BYTES = 4_096, 4, 3e6
STEPS = {1: 7, 2: 4}
"""Of each variant, by the number of ranks per host; the first one, which warms up, is left out."""
AT_ONCE, BUCKETS, ROUNDED = "at once", "buckets", "buckets, bfloat16"
ONE_LEVEL, TWO_LEVELS, TWO_ROUNDED = "one level", "two levels", "two levels, bfloat16"
VARIANTS = {1: (AT_ONCE, BUCKETS, ROUNDED), 2: (ONE_LEVEL, TWO_LEVELS, TWO_ROUNDED)}
"""By the number of ranks per host; others are compared with the first one."""
LIMIT = 900
"""Seconds that one job may take."""


def run() -> list[Result]:
    """Trains in one job for each number of ranks per host."""
    if reason := _why_not():
        return [unmeasured("waiting", "s", reason), unmeasured("bytes", "MB", reason)]
    results: list[Result] = []
    with scratch_folder("bench") as scratch:
        for per_host in VARIANTS:
            with two_hosts(RATE) as hosts:
                results += _results(per_host, _job(hosts, per_host, scratch))
    return results


def _results(per_host: int, measured: dict[str, dict[str, Any]]) -> list[Result]:
    first = VARIANTS[per_host][0]
    waited, took = (median(measured[first][what]) for what in ("waiting", "step"))
    results: list[Result] = []
    for name, m in measured.items():
        title = f"2 hosts x {per_host}, {name}"
        against = None if name == first else (Against(first, waited), Against(first, took))
        for i, (what, before) in enumerate((("waiting", waited), ("step", took))):
            ratio = median(m[what]) / before if against else None
            results.append(Result(f"{title}/{what}", "s", tuple(m[what]), against[i] if against else None, ratio))
        counted, expected = m["bytes"] / 1e6, m["formula"] / 1e6
        formula = Against("formula", expected)
        results.append(Result(f"{title}/sent", "MB", (counted,), formula, counted / expected, goal="≤ 1.05"))
    return results


def _job(hosts: tuple[str, str], per_host: int, scratch: Path) -> dict[str, dict[str, Any]]:
    """What rank 0 of a job on both hosts measured."""
    folder = scratch / f"per_host{per_host}"
    folder.mkdir()
    work = {"variants": VARIANTS[per_host], "per_host": per_host, "out": str(folder / "measured.json")}
    env = os.environ | {"WORK": json.dumps(work), "OMP_NUM_THREADS": "1"}
    agents: list[subprocess.Popen[str]] = []
    for node, name in enumerate(hosts):
        meeting = Meeting(2, node, f"{ADDRESSES[0]}:29500", "bench", ADDRESSES[node])
        command = torchrun(["-m", "benchmarks.exchange"], per_host, str(folder / f"logs{node}"), meeting=meeting)
        command = ["ip", "netns", "exec", name, *command]
        agents.append(subprocess.Popen(command, cwd=REPO_ROOT, env=env, stderr=subprocess.PIPE, text=True))
    deadline = time.monotonic() + LIMIT
    try:
        for agent in agents:
            _, said = agent.communicate(timeout=max(1, deadline - time.monotonic()))
            if agent.returncode:
                raise BenchError(f"a host's torchrun ended with exit code {agent.returncode}: {said[-3000:]}")
    except subprocess.TimeoutExpired:
        raise BenchError(f"{per_host} ranks per host did not end within {LIMIT} s") from None
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait()
    return json.loads((folder / "measured.json").read_text())


# --- the hosts --------------------------------------------------------------------------------------------------------

ADDRESSES = ("10.199.77.1", "10.199.77.2")
DEVICE = "eth0"


def _why_not() -> str | None:
    """Why this machine cannot make the hosts; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if not shutil.which(tool):
            return f"there is no {tool}: install iproute2"
    try:
        with two_hosts(RATE):
            return None
    except subprocess.CalledProcessError as e:
        return f"this machine makes no network namespaces with a shaped link: {e.stderr.strip()}"


@contextmanager
def two_hosts(rate: str) -> Generator[tuple[str, str]]:
    """The names of two namespaces with a link that carries `rate` in each direction."""
    names = (f"aqx{os.getpid()}a", f"aqx{os.getpid()}b")
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        here, there = names
        _run("ip", "-n", here, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", there)
        for name, address in zip(names, ADDRESSES, strict=True):
            _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
            for device in (DEVICE, "lo"):
                _run("ip", "-n", name, "link", "set", device, "up")
            shape = ["tbf", "rate", rate, "burst", "256kb", "latency", "2s"]
            _run("tc", "-n", name, "qdisc", "add", "dev", DEVICE, "root", *shape)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


# --- in the processes that train -------------------------------------------------------------------------------------


def worker(work: dict[str, Any]) -> None:
    """Steps of all variants in turn; rank 0 writes their seconds and bytes."""
    launch = LaunchConfig(device="cpu", threads=1, two_level=True)
    with distributed_world(launch) as world:
        variants: dict[str, Variant] = {}
        for name in work["variants"]:
            exchange = replace(
                world.exchange,
                groups=world.exchange.groups if name.startswith("two") else (),
                bucket_bytes=1e12 if name == AT_ONCE else BUCKET_BYTES,
                gather_dtype=torch.bfloat16 if "bfloat16" in name else torch.float32,
            )
            variants[name] = Variant(name, replace(world, exchange=exchange), work["per_host"])
        for step in range(STEPS[work["per_host"]]):
            for variant in variants.values():
                variant.step(step)
        if world.rank == 0:
            found = {name: variant.found() for name, variant in variants.items()}
            Path(work["out"]).write_text(json.dumps(found))


class AtOnce(GradientExchange):
    """An all-reduce of all gradients after the backward pass, as before there were buckets."""

    def _summed(self, bucket: Any) -> Transfer:
        yield dist.all_reduce(bucket.flat, async_op=True)
        (own,) = bucket.parts
        own.copy_(bucket.flat[self.world.rank * len(own) : (self.world.rank + 1) * len(own)])


class Variant:
    """A model that is trained with one form of the exchange."""

    def __init__(self, name: str, world: World, per_host: int) -> None:
        self.at_once, self.world, self.per_host = name == AT_ONCE, world, per_host
        self.model = Transformer(ModelConfig(**MODEL), VOCABULARY, world.compute_dtype)
        self.model.init_weights(torch.Generator().manual_seed(1))
        self.optimizer = ShardedOptimizer(self.model, OptimConfig(), STEPS[per_host], world)
        if self.at_once:
            self.optimizer.exchange = AtOnce(parameter_groups(self.model, OptimConfig()), world)
        exchange = self.optimizer.exchange
        self.measured: dict[str, list[float]] = defaultdict(list)
        self.waited = 0.0
        for method in ("send_rest", "gradients", "gather_weights"):
            setattr(exchange, method, self._timed(getattr(exchange, method)))
        ids = torch.randint(VOCABULARY, (ROWS, MODEL["sequence_len"] + 1), generator=torch.Generator().manual_seed(2))
        self.rows = ids[:, :-1], ids[:, 1:]

    def step(self, step: int) -> None:
        exchange = None if self.at_once else self.optimizer.exchange
        before = self._sent()
        self.waited, started = 0.0, time.perf_counter()
        accumulate_loss(self.model.loss_sum, *self.rows, ROWS, self.world, exchange=exchange)
        self.optimizer.step(step)
        self.measured["step"].append(time.perf_counter() - started)
        self.measured["waiting"].append(self.waited)
        self.measured["bytes"].append(self._sent() - before)

    def found(self) -> dict[str, Any]:
        return {
            "waiting": self.measured["waiting"][1:],
            "step": self.measured["step"][1:],
            "bytes": median(self.measured["bytes"][1:]),
            "formula": self._formula(),
        }

    def _formula(self) -> int:
        """Bytes that a host sends in a step."""
        buckets, settings = self.optimizer.exchange.buckets, self.world.exchange
        if self.at_once:
            # An all-reduce passes everything around the ring twice, an all-gather once.
            return 3 * (self.world.size - 1) * FLOAT_BYTES * sum(map(capacity, buckets))
        return bytes_across(
            buckets, 2, self.per_host, two_level=bool(settings.groups), gather_bytes=settings.gather_dtype.itemsize
        )

    def _timed(self, method: Any) -> Any:
        """Adds the seconds of the outermost of such calls to `waited`."""

        def timed(*args: Any) -> Any:
            before, started = self.waited, time.perf_counter()
            result = method(*args)
            self.waited = before + time.perf_counter() - started
            return result

        return timed

    def _sent(self) -> int:
        """Bytes that this host has sent when all ranks have come here."""
        self.world.sum(torch.zeros(1))
        lines = Path("/proc/net/dev").read_text().splitlines()
        sent = next(int(line.split()[9]) for line in lines if line.split(":")[0].strip() == DEVICE)
        self.world.sum(torch.zeros(1))
        return sent


if __name__ == "__main__":
    worker(json.loads(os.environ["WORK"]))
