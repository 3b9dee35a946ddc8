"""Faults of a control host and its processes: each case breaks something while a run trains, and returns what it cost.

A case takes a rig whose daemon runs and whose only host is this machine. `host_faults.py` has those of hosts behind a
network, `crowds.py` those of many runs.
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
from tests.launching.rig import Rig, assert_nothing_left
from tests.launching.survival import (
    ASSET,
    STEPS,
    cancelled,
    command_of,
    expect,
    killed,
    training,
)
from tests.patience import wait_until


def run_worker(rig: Rig) -> dict[str, Any]:
    return killed(rig, lambda rig, run_id: [rig.worker(run_id)], trainers=1)


def run_worker_stopped(rig: Rig) -> dict[str, Any]:
    """A shutdown of the control host asks its processes to end: nobody cancelled the run."""
    return killed(rig, lambda rig, run_id: [rig.worker(run_id)], trainers=1, how=signal.SIGTERM)


def daemon(rig: Rig) -> dict[str, Any]:
    """It stays away until the run has ended without it."""
    run_id = training(rig)
    rig.stop_daemon()
    facts = expect(rig, run_id, trainers=1)
    rig.start_daemon()
    return facts


def code_server(rig: Rig) -> dict[str, Any]:
    return killed(rig, _code_servers, trainers=1)


def _code_servers(rig: Rig, _: str) -> list[int]:
    return [pid for pid in rig.started() if b"code-server" in command_of(pid) or b"grpc" in command_of(pid)]


def web_server(rig: Rig) -> dict[str, Any]:
    """It dies, with its code server, while it shows the run."""
    with rig.web_server() as web:
        run_id = training(rig)
        web.wait()
        assert web.ask("query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }", run=run_id) == {
            "runOrError": {"status": "STARTED"}
        }
    return expect(rig, run_id, trainers=1)


def supervisor(rig: Rig) -> dict[str, Any]:
    return killed(rig, lambda rig, run_id: [rig.supervisor(run_id)], trainers=2)


def rank(rig: Rig) -> dict[str, Any]:
    return killed(rig, lambda rig, run_id: [rig.trace(run_id, ASSET)[-1]["pid"]], trainers=2)


def torchrun(rig: Rig) -> dict[str, Any]:
    return killed(rig, lambda rig, run_id: [_torchrun(rig, run_id)], trainers=2)


def torchrun_terminated(rig: Rig) -> dict[str, Any]:
    """SIGTERM to torchrun, which ends its ranks and then itself with an error that names no rank."""
    return killed(rig, lambda rig, run_id: [_torchrun(rig, run_id)], trainers=2, how=signal.SIGTERM)


def rank_terminated(rig: Rig) -> dict[str, Any]:
    """SIGTERM to a rank, which leaves the result of a stage that saved its state and stopped."""
    run_id = training(rig, stops=True)
    os.kill(rig.trace(run_id, ASSET)[-1]["pid"], signal.SIGTERM)
    return expect(rig, run_id, trainers=2)


def _torchrun(rig: Rig, run_id: str) -> int:
    return next(pid for pid in rig.members(run_id) if b"aquarat_core.torchrun" in command_of(pid))


def worker_and_supervisor(rig: Rig) -> dict[str, Any]:
    return killed(rig, lambda rig, run_id: [rig.worker(run_id), rig.supervisor(run_id)], trainers=2)


def shell(rig: Rig) -> dict[str, Any]:
    """The terminal that ran `dagster asset materialize`; the daemon takes the run over."""
    rig.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    before = {run.run_id for run in rig.instance.get_runs()}
    command = rig.shell(ASSET)
    new = wait_until(lambda: [r for r in rig.instance.get_runs() if r.run_id not in before], 60, "the run is there")
    run_id = new[0].run_id
    rig.wait_for_step(run_id, ASSET, 2)
    assert worker_of(rig.run(run_id).tags)["kind"] == "shell"
    command.kill()
    command.wait()
    return expect(rig, run_id, trainers=1)


def shell_with_a_profile(rig: Rig) -> dict[str, Any]:
    """The terminal has another profile than the daemon that takes its run over: the run keeps the one it began with."""
    profile = rig.directory / "mine.yaml"
    profile.write_text(
        "extends: demo\nname: mine\ndescription: The terminal's.\nsft_checkpoint: {launch: {nproc: 1}, steps: 77}\n"
    )
    rig.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    before = {run.run_id for run in rig.instance.get_runs()}
    # Two assets: the second step begins in the worker that the daemon starts.
    command = rig.shell(f"{ASSET},rl_checkpoint", AQUARAT_PROFILE=str(profile))
    new = wait_until(lambda: [r for r in rig.instance.get_runs() if r.run_id not in before], 60, "the run is there")
    run_id = new[0].run_id
    rig.wait_for_step(run_id, ASSET, 2)
    rig.order("rl_checkpoint", steps=1)
    command.kill()
    command.wait()
    profile.write_text("extends: demo\nname: changed\ndescription: After the run began.\n")
    facts = expect(rig, run_id, trainers=1)
    store = ArtifactStore.open(rig.store_uri)
    made = {asset: store.latest(asset).manifest for asset in (ASSET, "rl_checkpoint")}
    assert {m.run_id for m in made.values()} == {run_id}
    assert {m.profile for m in made.values()} == {"mine"} and made[ASSET].config["steps"] == 77
    assert rig.run(run_id).tags[PROFILE_TAG] == "mine"
    return facts


def overtaken_shell(rig: Rig) -> dict[str, Any]:
    """Without a daemon a terminal dies, its job goes on unwatched, a newer run succeeds; then a daemon comes."""
    rig.stop_daemon()
    store = ArtifactStore.open(rig.store_uri)
    before = store.latest(ASSET)
    rig.order(ASSET, steps=3, hold=2)
    known = {run.run_id for run in rig.instance.get_runs()}
    command = rig.shell(ASSET)
    new = wait_until(lambda: [r for r in rig.instance.get_runs() if r.run_id not in known], 60, "the run is there")
    older = new[0].run_id
    rig.wait_for_step(older, ASSET, 2)
    command.kill()
    command.wait()
    rig.release(ASSET)
    wait_until(lambda: rig.status(older)["state"] == "ended", 60, "the unwatched job ends")
    unwatched = JobDir.at(rig.job_uri(older)).read_json("result.json")["manifest_sha256"]
    assert store.get(unwatched).is_complete() and store.latest(ASSET) == before
    rig.order(ASSET, steps=1)
    assert rig.shell(ASSET).wait() == 0
    rig.start_daemon()
    assert rig.wait(older) == "FAILURE"
    assert "an older run does not replace what a newer one makes" in rig.story(older)
    latest = rig.materializations(ASSET)[0]
    assert latest.run_id != older and not [r for r in rig.materializations(ASSET) if r.run_id == older]
    assert store.latest(ASSET).sha256 == latest.asset_materialization.metadata["manifest_sha256"].value
    assert_nothing_left(rig, older)
    return {"outcome": "stays dead behind a newer run", "redone": 0}


def second_start(rig: Rig) -> dict[str, Any]:
    """The same job is started again on its host, and the same run is resumed although its worker lives."""
    run_id = training(rig)
    attempt = Attempt.find(rig.instance, ArtifactStore.open(rig.store_uri), run_id, ASSET, 0)
    order = {**commands.job_request(attempt, 0), "token": None}
    host = read_inventory(rig.home).hosts[0]
    assert transport_to(host).call("start", order) == {"state": "already-started"}
    elsewhere = host.model_copy(update={"root": str(rig.directory / "elsewhere")})
    full = {"owner": run_id, "step": ASSET, "host": "elsewhere", "gpus": 0, "host_gpus": 0}
    answer = transport_to(elsewhere).call("start", order | full | {"max_leases": 1, "ttl": 5, "min_free_bytes": 0})
    assert answer == {"state": "claimed"}
    assert transport_to(elsewhere).call("leases", {}) == {"leases": []}
    run = rig.run(run_id)
    first = worker_of(run.tags)
    rig.instance.run_launcher._start_worker(run, _resume_command(rig, run), "A second")
    second = worker_of(rig.run(run_id).tags)
    assert second != first
    wait_until(lambda: not processes.is_alive(second), 60, "the second worker leaves")
    assert processes.is_alive(first)
    assert worker_of(rig.run(run_id).tags) == first
    return expect(rig, run_id, trainers=1)


def _resume_command(rig: Rig, run: dg.DagsterRun) -> list[str]:
    from aquarat_pipeline._compat import ResumeRunArgs

    return ResumeRunArgs(
        job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=rig.instance.get_ref()
    ).get_command_args()


# --- cancelled --------------------------------------------------------------------------------------------------------


def cancel_queued(rig: Rig) -> dict[str, Any]:
    rig.stop_daemon()
    rig.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    run_id = rig.launch(ASSET)
    facts = cancelled(rig, run_id)
    rig.start_daemon()
    return facts


def cancel_waiting(rig: Rig) -> dict[str, Any]:
    """It waits for the only host, which another run has."""
    first = training(rig)
    second = rig.launch(ASSET)
    wait_until(lambda: "Waiting for a host" in rig.story(second), 60, "the second run says what it waits for")
    facts = cancelled(rig, second, left=1)
    cancelled(rig, first)
    return facts


def cancel_starting(rig: Rig) -> dict[str, Any]:
    """The worker's process exists and has not begun."""
    rig.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    run_id = rig.launch(ASSET)
    wait_until(lambda: worker_of(rig.run(run_id).tags), 60, "a worker is started")
    return cancelled(rig, run_id)


def cancel_resuming(rig: Rig) -> dict[str, Any]:
    """The worker is dead, and the one that replaces it has not begun."""
    run_id = training(rig)
    first = rig.worker(run_id)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: rig.worker(run_id) != first, 60, "another worker is started")
    return cancelled(rig, run_id)


def cancel_training(rig: Rig) -> dict[str, Any]:
    return cancelled(rig, training(rig))


def cancel_in_web_server(rig: Rig) -> dict[str, Any]:
    """The Terminate button."""
    with rig.web_server() as web:
        run_id = training(rig)
        web.wait()
        return cancelled(rig, run_id, cancel=web.terminate)


def cancel_without_worker(rig: Rig) -> dict[str, Any]:
    """The worker is dead when the run is cancelled; the job is told through the store."""
    run_id = training(rig)
    rig.stop_daemon()
    os.kill(rig.worker(run_id), signal.SIGKILL)
    facts = cancelled(rig, run_id)
    rig.start_daemon()
    return facts


def cancel_publishing(rig: Rig) -> dict[str, Any]:
    """All steps are made, and the artifact is about to be published."""
    run_id = training(rig, steps=3, hold=3)
    rig.wait_for_step(run_id, ASSET, 3)
    return cancelled(rig, run_id)


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
