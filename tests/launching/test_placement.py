"""Placing a job: all leases or none, and what becomes of an attempt that only some of its hosts ever started."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.artifacts.environment import PRICE
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.hosts.allocator import SharedAllocator
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.queueing import Answer, HeldLease, Refusal, together
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import placement, runner, running
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.jobs.commands import Launch, _environment
from aquarat_pipeline.jobs.placement import NoHostError, Placement
from aquarat_pipeline.jobs.runner import StageRunner
from aquarat_pipeline.tags import JOB_TAG

STAGE = STAGES["sft_checkpoint"]
TWO = Requirement(True, nodes=2)


class Agents:
    """Agents that answer from a table, `<host> <command>`, and note what they were asked."""

    def __init__(self, **replies: Any) -> None:
        self.asked: list[str] = []
        self.starts: Any = None
        self._replies = replies

    def __call__(self, host: Host) -> SimpleNamespace:
        return SimpleNamespace(**{name: self._asker(host, name) for name in ("reserve", "start", "stop", "status")})

    def _asker(self, host: Host, name: str) -> Any:
        def ask(request: Any, *_: Any) -> Any:
            self.asked.append(f"{name} {host.name}")
            reply = self._replies.get(f"{name}_{host.name}", self._replies.get(name))
            if isinstance(reply, Exception):
                raise reply
            if name == "start" and reply["state"] == "started":
                self.starts(request)
            return reply

        return ask


def test_hosts_of_a_job_are_of_one_site() -> None:
    hosts = [Host(name=f"{site}{k}", address="x", site=site) for site, count in (("a", 1), ("b", 2), ("c", 3))
             for k in range(count)]  # fmt: skip
    assert [host.name for host in together(hosts, 1)] == ["a0", "b0", "b1", "c0", "c1", "c2"]
    assert [host.name for host in together(hosts, 2)] == ["b0", "b1", "c0", "c1", "c2"]
    assert together(hosts, 4) == []


@pytest.fixture
def attempt(instance: dg.DagsterInstance, store_uri: str) -> Attempt:
    @dg.asset
    def made() -> None: ...

    run = instance.create_run_for_job(dg.Definitions(assets=[made]).resolve_implicit_global_asset_job_def())
    spec = StageSpec(
        stage=STAGE.name, store=store_uri, profile="demo", config=None, inputs={}, code=CodeVersion(version="v"),
        run_id=run.run_id, step_key=STAGE.name,
    )  # fmt: skip
    return Attempt.create(instance, ArtifactStore.open(store_uri), spec, 0, {})


def hosts(*names: str) -> list[Host]:
    return [Host(name=name, address=name) for name in names]


def launch(attempt: Attempt, need: Requirement) -> Launch:
    return Launch(attempt, STAGE, need, ("-m", "program"), {})


def ask(monkeypatch: pytest.MonkeyPatch, attempt: Attempt, **replies: Any) -> Agents:
    agents = Agents(**replies)
    agents.starts = lambda request: attempt.folder.create_json(
        f"claim/node{request['node']}.json", {"host": request["host"], "boot": "b"}
    )
    monkeypatch.setattr(placement, "HostAgent", agents)
    return agents


def test_a_job_is_told_what_its_hosts_cost_together(attempt: Attempt) -> None:
    priced = [Host(name=name, address=name, price_per_hour=price) for name, price in (("a", 2.5), ("b", 4.0))]
    told = [_environment(launch(attempt, TWO), some, 0).get(PRICE) for some in (priced, hosts("a", "b"))]
    assert told == ["6.5", None]


def test_too_few_leases_are_given_back(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved, stopped = {"state": "reserved"}, {"state": "stopped", "survivors": []}
    theirs = [{"mark": f"{attempt.folder.backend.uri}/jobs/r/s/1#node0", "gpus": 8, "counts": True}]
    elsewhere = [{"mark": "gs://theirs/jobs/r/s/1#node0", "gpus": 1, "counts": False}]
    busy = {"state": "busy", "reason": "in use by another", "held": [*theirs, *elsewhere]}
    agents = ask(monkeypatch, attempt, reserve=reserved, reserve_b=busy, reserve_c=HostError("away"), stop=stopped)
    with pytest.raises(NoHostError, match=r"^2 hosts for 1 process each: b: in use by another; c: away$") as raised:
        Placement.on_several(launch(attempt, TWO), hosts("c", "b", "a"))
    assert agents.asked == ["reserve a", "reserve b", "reserve c", "stop a"]
    held = (HeldLease(theirs[0]["mark"], 8),)
    assert raised.value.refused == {"b": Refusal("in use by another", held), "c": Refusal("away")}

    found = Placement.on_several(launch(attempt, TWO), hosts("d", "c", "a"))
    assert [host.name for host in found.hosts] == ["a", "d"]
    assert str(found) == "1 process each on a, d"

    agents.asked.clear()
    apart = [
        host.model_copy(update={"site": site}) for host, site in zip(hosts("a", "b", "d", "e"), "1122", strict=True)
    ]
    found = Placement.on_several(launch(attempt, TWO), apart)
    assert [host.name for host in found.hosts] == ["d", "e"], "b is busy, and a and d are not of one site"
    assert agents.asked == ["reserve a", "reserve b", "stop a", "reserve d", "reserve e"]


def test_a_host_whose_reply_was_lost_has_started_the_job_if_it_claimed_it(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, attempt, start=HostError("timed out"))
    (host,) = hosts("a")
    placed = Placement.on_one(launch(attempt, Requirement(True)), host)
    with pytest.raises(NoHostError, match=r"^a: timed out$"):
        placed.start()
    (tmp_path / "hosts.yaml").write_text("hosts: [")
    assert running.RunningJob.attach(attempt, tmp_path, host) is None, "whose inventory is broken may still be waiting"
    (tmp_path / "hosts.yaml").write_text("hosts: [{name: b, address: b}]")
    attempt.folder.create_json("claim/node0.json", {"host": "a", "boot": "b"})
    placed.start()
    job = running.RunningJob.attach(attempt, tmp_path, hosts("local")[0])
    assert job is not None and job.host_names == ["a"], "also when the inventory no longer has it"


def test_an_attempt_that_some_hosts_never_started_gives_way_to_the_next(
    instance: dg.DagsterInstance, store_uri: str, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker died between the starts on two hosts. The run's tag names the attempt that is started in its place."""
    attempt.assign(["a", "b"])
    attempt.folder.create_json("claim/node0.json", {"host": "a", "boot": "b"})
    context = SimpleNamespace(
        instance=instance, run=instance.get_run_by_id(attempt.spec.run_id), log=SimpleNamespace(info=print),
        asset_key=dg.AssetKey(STAGE.name),
    )  # fmt: skip
    said: list[str] = []
    store = ArtifactStore.open(store_uri)
    jobs = StageRunner(
        context, STAGE, attempt, store, program=(), pipes_env={}, grace_seconds=1, handle=print, say=said.append
    )
    refused = {"state": "full", "reason": "no room"}
    ask(monkeypatch, attempt, start=refused)
    with pytest.raises(dg.Failure, match="sft_checkpoint cannot be started here: no room"):
        jobs._run_attempt(Requirement(False))
    assert attempt.folder.read_json("cancel.json") == {"reason": "it was started on only some of its hosts"}
    following = Attempt.find(instance, store, attempt.spec.run_id, STAGE.name, 0)
    assert following is not None and following.spec.attempt == attempt.spec.attempt + 1
    assert instance.get_run_by_id(attempt.spec.run_id).tags[JOB_TAG] == following.folder.uri
    assert said == ["starting on this machine"]


def test_a_job_in_line_says_once_that_it_waits_and_once_that_it_starts(
    instance: dg.DagsterInstance, store_uri: str, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = SimpleNamespace(
        instance=instance, run=instance.get_run_by_id(attempt.spec.run_id), log=SimpleNamespace(info=print),
        asset_key=dg.AssetKey(STAGE.name),
    )  # fmt: skip
    said: list[str] = []
    store = ArtifactStore.open(store_uri)
    jobs = StageRunner(
        context, STAGE, attempt, store, program=(), pipes_env={}, grace_seconds=1, handle=print, say=said.append
    )
    busy = {"a": Refusal("in use by another")}
    refusals = iter([NoHostError("a: in use by another", busy), NoHostError("a: in use by another", busy)])

    def start(placed: Placement) -> None:
        if refusal := next(refusals, None):
            raise refusal

    monkeypatch.setattr(Placement, "start", start)
    monkeypatch.setattr(SharedAllocator, "wait", lambda *_: Answer(0.0, ("a",), number=1))
    monkeypatch.setattr(runner, "read_inventory", lambda _: SimpleNamespace(hosts=hosts("a")))
    jobs._acquire_hosts(launch(attempt, Requirement(True)))
    assert [text.split()[0] for text in said] == ["starting", "waiting", "waiting", "starting"]
    said.clear()
    jobs._acquire_hosts(launch(attempt, Requirement(True)))
    assert [text.split()[0] for text in said] == ["starting"]


def test_a_request_is_json_and_a_lease_has_the_fields_of_the_protocol(attempt: Attempt, tmp_path: Path) -> None:
    from aquarat_core.agent import leases, protocol
    from aquarat_pipeline.jobs import commands

    local = Host(name="local", transport="local", root=str(tmp_path))
    request = commands.start_request(launch(attempt, Requirement(False)), [local], 0)
    assert json.loads(json.dumps(request)) == request
    lease = leases.acquire(tmp_path, request)
    assert leases.FIELDS == set(protocol.Lease.__annotations__) == set(lease)
