"""Faults while a run trains, and what they cost: every case of the fault tests, as a table.

For each case: what came of it, the seconds from the fault to the end, and the steps that were made twice. A toy trainer
saves every step, so that a step made twice is one that was cut off between being made and being saved. The cases with
hosts of their own need root, iproute2 and openssh-server.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

from aquarat_core.runtime.scratch import scratch_folder
from benchmarks.harness import Result, unmeasured
from tests.launching import faults, host_faults, many_runs
from tests.launching.cluster_fixture import ready_cluster
from tests.launching.kill_scenarios import CANCELLED_WITHIN
from tests.launching.network import Network, why_not


def run() -> list[Result]:
    """Runs all cases, or those that AQUARAT_FAULTS names, each as often as once."""
    wanted = os.environ.get("AQUARAT_FAULTS", "").split()
    results: list[Result] = []
    local, cases = _chosen((*faults.CASES, *many_runs.CASES), wanted), _chosen(host_faults.CASES, wanted)
    print(f"{'case':<24}{'outcome':<40}{'seconds':>8}{'redone':>8}", flush=True)
    with ready_cluster() if local else nullcontext() as cluster:
        for case in local:
            _one(case.__name__, lambda case=case: case(cluster), results)
    if why := why_not():
        results += [unmeasured(case.__name__, "s", why) for case in cases]
    elif cases:
        with _network() as network:
            hosts = [network.host(0), network.host(1)]
            with ready_cluster(hosts, store=network.store_uri, env=network.environment) as cluster:
                for case in cases:
                    _one(case.__name__, lambda case=case: case(cluster, network), results)
    failed = [result.name for result in results if (result.reason or "").startswith("FAILED")]
    return [*results, Result("failed", "cases", (float(len(failed)),), goal="≤ 0 cases")]


def _one(name: str, do: Callable[[], dict[str, Any]], results: list[Result]) -> None:
    began = time.monotonic()
    try:
        facts = do()
    except Exception as e:
        traceback.print_exc(limit=4, file=sys.stderr)
        print(f"{name:<24}{'FAILED':<40}{time.monotonic() - began:>8.1f}", flush=True)
        results.append(unmeasured(name, "s", f"FAILED: {type(e).__name__}: {str(e)[:200]}"))
        return
    print(f"{name:<24}{facts['outcome']:<40}{facts['seconds']:>8.1f}{facts['redone']:>8}", flush=True)
    goal = f"≤ {CANCELLED_WITHIN:.0f} s" if name.startswith("cancel") else None
    results.append(Result(name, "s", (facts["seconds"],), goal=goal))
    results.append(Result(f"{name}/redone", "steps", (float(facts["redone"]),)))


def _chosen(cases: tuple[Callable, ...], wanted: list[str]) -> list[Callable]:
    return [case for case in cases if not wanted or case.__name__ in wanted]


@contextmanager
def _network() -> Iterator[Network]:
    with scratch_folder("network") as directory:
        network = Network(directory, 2)
        try:
            with mock.patch.dict(os.environ, network.environment):
                yield network
        finally:
            network.close()
