"""Faults of a control host and its processes: each case breaks something while a run trains, and returns what it cost.

A case takes a cluster whose daemon runs and whose only host is this machine. `host_faults.py` has those of hosts behind
a network, `many_runs.py` those of many runs.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import dagster as dg

from aquarat_core.agent import processes
from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.hosts.transports import transport_to
from aquarat_pipeline.jobs import commands
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.tags import PROFILE_TAG
from aquarat_pipeline.workers import worker_of
from tests.launching.cluster_fixture import Cluster, assert_nothing_left
from tests.launching.kill_scenarios import (
    ASSET,
    STEPS,
    cancelled,
    command_of,
    expect,
    killed,
    training,
)
from tests.patience import wait_until


def run_worker(cluster: Cluster) -> dict[str, Any]:
    return killed(cluster, lambda cluster, run_id: [cluster.worker(run_id)], trainers=1)


def run_worker_stopped(cluster: Cluster) -> dict[str, Any]:
    """A shutdown of the control host asks its processes to end: nobody cancelled the run."""
    return killed(cluster, lambda cluster, run_id: [cluster.worker(run_id)], trainers=1, how=signal.SIGTERM)


def daemon(cluster: Cluster) -> dict[str, Any]:
    """It stays away until the run has ended without it."""
    run_id = training(cluster)
    cluster.stop_daemon()
    facts = expect(cluster, run_id, trainers=1)
    cluster.start_daemon()
    return facts


def code_server(cluster: Cluster) -> dict[str, Any]:
    return killed(cluster, _code_servers, trainers=1)


def _code_servers(cluster: Cluster, _: str) -> list[int]:
    return [pid for pid in cluster.started() if b"code-server" in command_of(pid) or b"grpc" in command_of(pid)]


def web_server(cluster: Cluster) -> dict[str, Any]:
    """It dies, with its code server, while it shows the run."""
    with cluster.web_server() as web:
        run_id = training(cluster)
        web.wait()
        assert web.ask("query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }", run=run_id) == {
            "runOrError": {"status": "STARTED"}
        }
    return expect(cluster, run_id, trainers=1)


def supervisor(cluster: Cluster) -> dict[str, Any]:
    return killed(cluster, lambda cluster, run_id: [cluster.supervisor(run_id)], trainers=2)


def rank(cluster: Cluster) -> dict[str, Any]:
    return killed(cluster, lambda cluster, run_id: [cluster.trace(run_id, ASSET)[-1]["pid"]], trainers=2)


def torchrun(cluster: Cluster) -> dict[str, Any]:
    return killed(cluster, lambda cluster, run_id: [_torchrun(cluster, run_id)], trainers=2)


def torchrun_terminated(cluster: Cluster) -> dict[str, Any]:
    """SIGTERM to torchrun, which ends its ranks and then itself with an error that names no rank."""
    return killed(cluster, lambda cluster, run_id: [_torchrun(cluster, run_id)], trainers=2, how=signal.SIGTERM)


def rank_terminated(cluster: Cluster) -> dict[str, Any]:
    """SIGTERM to a rank, which leaves the result of a stage that saved its state and stopped."""
    run_id = training(cluster, stops=True)
    os.kill(cluster.trace(run_id, ASSET)[-1]["pid"], signal.SIGTERM)
    return expect(cluster, run_id, trainers=2)


def _torchrun(cluster: Cluster, run_id: str) -> int:
    return next(pid for pid in cluster.members(run_id) if b"aquarat_core.torchrun" in command_of(pid))


def worker_and_supervisor(cluster: Cluster) -> dict[str, Any]:
    return killed(cluster, lambda cluster, run_id: [cluster.worker(run_id), cluster.supervisor(run_id)], trainers=2)


def shell(cluster: Cluster) -> dict[str, Any]:
    """The terminal that ran `dagster asset materialize`; the daemon takes the run over."""
    cluster.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    before = {run.run_id for run in cluster.instance.get_runs()}
    command = cluster.shell(ASSET)
    new = wait_until(lambda: [r for r in cluster.instance.get_runs() if r.run_id not in before], 60, "the run is there")
    run_id = new[0].run_id
    cluster.wait_for_step(run_id, ASSET, 2)
    assert worker_of(cluster.run(run_id).tags)["kind"] == "shell"
    command.kill()
    command.wait()
    return expect(cluster, run_id, trainers=1)


def shell_with_a_profile(cluster: Cluster) -> dict[str, Any]:
    """The terminal has another profile than the daemon that takes its run over: the run keeps the one it began with."""
    profile = cluster.directory / "mine.yaml"
    profile.write_text(
        "extends: demo\nname: mine\ndescription: The terminal's.\nsft_checkpoint: {launch: {nproc: 1}, steps: 77}\n"
    )
    cluster.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    before = {run.run_id for run in cluster.instance.get_runs()}
    # Two assets: the second step begins in the worker that the daemon starts.
    command = cluster.shell(f"{ASSET},rl_checkpoint", AQUARAT_PROFILE=str(profile))
    new = wait_until(lambda: [r for r in cluster.instance.get_runs() if r.run_id not in before], 60, "the run is there")
    run_id = new[0].run_id
    cluster.wait_for_step(run_id, ASSET, 2)
    cluster.order("rl_checkpoint", steps=1)
    command.kill()
    command.wait()
    profile.write_text("extends: demo\nname: changed\ndescription: After the run began.\n")
    facts = expect(cluster, run_id, trainers=1)
    store = ArtifactStore.open(cluster.store_uri)
    made = {asset: store.latest(asset).manifest for asset in (ASSET, "rl_checkpoint")}
    assert {m.run_id for m in made.values()} == {run_id}
    assert {m.profile for m in made.values()} == {"mine"} and made[ASSET].config["steps"] == 77
    assert cluster.run(run_id).tags[PROFILE_TAG] == "mine"
    return facts


def overtaken_shell(cluster: Cluster) -> dict[str, Any]:
    """Without a daemon a terminal dies, its job goes on unwatched, a newer run succeeds; then a daemon comes."""
    cluster.stop_daemon()
    store = ArtifactStore.open(cluster.store_uri)
    before = store.latest(ASSET)
    cluster.order(ASSET, steps=3, hold=2)
    known = {run.run_id for run in cluster.instance.get_runs()}
    command = cluster.shell(ASSET)
    new = wait_until(lambda: [r for r in cluster.instance.get_runs() if r.run_id not in known], 60, "the run is there")
    older = new[0].run_id
    cluster.wait_for_step(older, ASSET, 2)
    command.kill()
    command.wait()
    cluster.release(ASSET)
    wait_until(lambda: cluster.status(older)["state"] == "ended", 60, "the unwatched job ends")
    unwatched = JobDir.at(cluster.job_uri(older)).read_json("result.json")["manifest_sha256"]
    assert store.get(unwatched).is_complete() and store.latest(ASSET) == before
    cluster.order(ASSET, steps=1)
    assert cluster.shell(ASSET).wait() == 0
    cluster.start_daemon()
    assert cluster.wait(older) == "FAILURE"
    assert "an older run does not replace the results of a newer one" in cluster.story(older)
    latest = cluster.materializations(ASSET)[0]
    assert latest.run_id != older and not [r for r in cluster.materializations(ASSET) if r.run_id == older]
    assert store.latest(ASSET).sha256 == latest.asset_materialization.metadata["manifest_sha256"].value
    assert_nothing_left(cluster, older)
    return {"outcome": "stays dead behind a newer run", "redone": 0}


def second_start(cluster: Cluster) -> dict[str, Any]:
    """The same job is started again on its host, and the same run is resumed although its worker lives."""
    run_id = training(cluster)
    attempt = Attempt.find(cluster.instance, ArtifactStore.open(cluster.store_uri), run_id, ASSET, 0)
    order = {**commands.job_request(attempt, 0), "token": None}
    host = read_inventory(cluster.home).hosts[0]
    assert transport_to(host).call("start", order) == {"state": "already-started"}
    elsewhere = host.model_copy(update={"root": str(cluster.directory / "elsewhere")})
    full = {"owner": run_id, "step": ASSET, "host": "elsewhere", "gpus": 0, "host_gpus": 0}
    answer = transport_to(elsewhere).call("start", order | full | {"max_leases": 1, "ttl": 5, "min_free_bytes": 0})
    assert answer == {"state": "claimed"}
    assert transport_to(elsewhere).call("leases", {}) == {"leases": []}
    run = cluster.run(run_id)
    first = worker_of(run.tags)
    cluster.instance.run_launcher._start_worker(run, _resume_command(cluster, run), "A second")
    second = worker_of(cluster.run(run_id).tags)
    assert second != first
    wait_until(lambda: not processes.is_alive(second), 60, "the second worker leaves")
    assert processes.is_alive(first)
    assert worker_of(cluster.run(run_id).tags) == first
    return expect(cluster, run_id, trainers=1)


def _resume_command(cluster: Cluster, run: dg.DagsterRun) -> list[str]:
    from aquarat_pipeline._compat import ResumeRunArgs

    return ResumeRunArgs(
        job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=cluster.instance.get_ref()
    ).get_command_args()


# --- cancelled --------------------------------------------------------------------------------------------------------


def cancel_queued(cluster: Cluster) -> dict[str, Any]:
    cluster.stop_daemon()
    cluster.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    run_id = cluster.launch(ASSET)
    facts = cancelled(cluster, run_id)
    cluster.start_daemon()
    return facts


def cancel_waiting(cluster: Cluster) -> dict[str, Any]:
    """It waits for the only host, which another run has."""
    first = training(cluster)
    second = cluster.launch(ASSET)
    wait_until(lambda: "Waiting for a host" in cluster.story(second), 60, "the second run says what it waits for")
    facts = cancelled(cluster, second, left=1)
    cancelled(cluster, first)
    return facts


def cancel_starting(cluster: Cluster) -> dict[str, Any]:
    """The worker's process exists and has not begun."""
    cluster.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    run_id = cluster.launch(ASSET)
    wait_until(lambda: worker_of(cluster.run(run_id).tags), 60, "a worker is started")
    return cancelled(cluster, run_id)


def cancel_resuming(cluster: Cluster) -> dict[str, Any]:
    """The worker is dead, and the one that replaces it has not begun."""
    run_id = training(cluster)
    first = cluster.worker(run_id)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: cluster.worker(run_id) != first, 60, "another worker is started")
    return cancelled(cluster, run_id)


def cancel_training(cluster: Cluster) -> dict[str, Any]:
    return cancelled(cluster, training(cluster))


def cancel_in_web_server(cluster: Cluster) -> dict[str, Any]:
    """The Terminate button."""
    with cluster.web_server() as web:
        run_id = training(cluster)
        web.wait()
        return cancelled(cluster, run_id, cancel=web.terminate)


def cancel_without_worker(cluster: Cluster) -> dict[str, Any]:
    """The worker is dead when the run is cancelled; the job is told through the store."""
    run_id = training(cluster)
    cluster.stop_daemon()
    os.kill(cluster.worker(run_id), signal.SIGKILL)
    facts = cancelled(cluster, run_id)
    cluster.start_daemon()
    return facts


def cancel_publishing(cluster: Cluster) -> dict[str, Any]:
    """All steps are made, and the artifact is about to be published."""
    run_id = training(cluster, steps=3, hold=3)
    cluster.wait_for_step(run_id, ASSET, 3)
    return cancelled(cluster, run_id)


CASES = (
    run_worker,
    run_worker_stopped,
    torchrun_terminated,
    rank_terminated,
    daemon,
    code_server,
    web_server,
    supervisor,
    rank,
    torchrun,
    worker_and_supervisor,
    shell,
    shell_with_a_profile,
    overtaken_shell,
    second_start,
    cancel_queued,
    cancel_waiting,
    cancel_starting,
    cancel_resuming,
    cancel_training,
    cancel_in_web_server,
    cancel_without_worker,
    cancel_publishing,
)
