"""`--nodes MIN:MAX`: which hosts a job takes, and that it goes on with fewer and with more after a host is lost."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import ConfigError, LaunchConfig, load_profile, override
from aquarat_core.errors import UsageError
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.cli.runs import add_hosts, tags_of
from aquarat_pipeline.hosts.host import Host, InventoryError, RentedHost
from aquarat_pipeline.hosts.queueing import Refusal, ticket, waiting_steps
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import commands, runner
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.jobs.avoided import AvoidedHosts
from aquarat_pipeline.jobs.outcome import Ending, JobOutcome
from aquarat_pipeline.jobs.placement import NoHostError, Placement
from aquarat_pipeline.jobs.runner import StageRunner
from tests.launching.asking import answer_to
from tests.launching.test_placement import STAGE, Agents, ask, attempt, hosts, launch

__all__ = ["attempt"]

SOME = Requirement(True, nodes=1, max_nodes=3)
RESERVED, STARTED = {"state": "reserved"}, {"state": "started"}
STOPPED = {"state": "stopped", "survivors": []}
BUSY = {"state": "busy", "reason": "in use by another"}


def needed(tags: dict[str, str], **fields: int) -> Requirement:
    config = load_profile("demo").sft_checkpoint.model_dump(mode="json")
    config["launch"] |= {"nproc": 4, "device": "cuda", **fields}
    return Requirement.of(STAGES["sft_checkpoint"], config, tags)


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_hosts(parser)
    return parser.parse_args(given)


# --- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "fields", "said"),
    [
        (None, {}, "a host with 4 GPUs"),
        (None, {"nodes": 2}, "2 hosts with 4 GPUs"),
        (None, {"nodes": 4, "min_nodes": 2}, "2 to 4 hosts with 4 GPUs"),
        ("1:2", {"nodes": 4}, "1 to 2 hosts with 4 GPUs"),
        ("2", {"nodes": 4, "min_nodes": 1}, "2 hosts with 4 GPUs"),
        ("3:3", {}, "3 hosts with 4 GPUs"),
    ],
)
def test_the_number_comes_from_the_profile_or_the_run(tag: str | None, fields: dict[str, int], said: str) -> None:
    assert str(needed({} if tag is None else {"aquarat/nodes": tag}, **fields)) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3:2", "the fewest hosts come first: write 2:3"),
        ("0:1", "a job needs at least one host: write 1"),
        ("0:4", "a job needs at least one host: write 1:4"),
        ("0", "a job needs at least one host: write 1"),
        ("a:b", "write the number of hosts, such as 2, or the fewest and the most, such as 1:4"),
        ("1:2:3", "write the number of hosts"),
        ("-1", "write the number of hosts"),
        ("2:", "write the number of hosts"),
        ("1:99999", "a job takes at most 4096 hosts"),
    ],
)
def test_what_is_no_number_of_hosts_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(UsageError) as of_command:
        tags_of(arguments(f"--nodes={text}"))
    with pytest.raises(InventoryError) as of_tag:
        needed({"aquarat/nodes": text})
    assert str(of_command.value).startswith(f"--nodes is {text!r}: {said}")
    assert str(of_tag.value).startswith(f"the run's tag aquarat/nodes is {text!r}: {said}")
    assert "\n" not in str(of_command.value)


def test_a_number_or_a_range_becomes_the_runs_tag() -> None:
    assert tags_of(arguments("--nodes", "1:2")) == {"aquarat/nodes": "1:2"}
    assert tags_of(arguments("--nodes", "2")) == {"aquarat/nodes": "2"}
    assert tags_of(arguments()) == {}


def test_a_profile_whose_fewest_hosts_exceed_the_most_is_refused() -> None:
    given = {"rl_checkpoint": {"launch": {"min_nodes": 3, "nodes": 2}}}
    with pytest.raises(ConfigError, match="min_nodes 3 exceeds nodes 2: lower the one or raise the other"):
        override(load_profile("demo"), given)
    assert LaunchConfig(min_nodes=2, nodes=2).nodes == 2


def test_a_place_in_line_says_the_range(tmp_path: Path) -> None:
    with ticket(tmp_path, "run", "step", 1.0, SOME):
        assert [step.need for step in waiting_steps(tmp_path)] == [SOME]


# --- which hosts it takes ---------------------------------------------------------------------------------------------


def listed(home: Path, *found: dict[str, Any]) -> None:
    (home / "hosts.yaml").write_text(json.dumps({"hosts": [{"address": "x", **host} for host in found]}))


def names(placed: Placement) -> list[str]:
    return [host.name for host in placed.hosts]


def test_a_job_takes_all_hosts_that_are_free_up_to_the_most(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = ask(monkeypatch, attempt, reserve=RESERVED, reserve_b=BUSY, reserve_d=HostError("away"), stop=STOPPED)
    assert names(Placement.on_several(launch(attempt, SOME), hosts("d", "c", "b", "a"))) == ["a", "c"]
    assert agents.asked == ["reserve a", "reserve b", "reserve c", "reserve d"]
    agents.asked.clear()
    assert names(Placement.on_several(launch(attempt, SOME), hosts("a", "c", "e", "f"))) == ["a", "c", "e"]
    with pytest.raises(NoHostError, match=r"^1 to 3 hosts for 1 process each: b: in use by another; d: away$"):
        Placement.on_several(launch(attempt, SOME), hosts("b", "d"))


def test_too_few_for_the_fewest_are_given_back(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = ask(monkeypatch, attempt, reserve=RESERVED, reserve_b=BUSY, stop=STOPPED)
    need = Requirement(True, nodes=2, max_nodes=3)
    with pytest.raises(NoHostError, match=r"^2 to 3 hosts"):
        Placement.on_several(launch(attempt, need), hosts("a", "b"))
    assert agents.asked == ["reserve a", "reserve b", "stop a"]


def test_a_job_is_given_as_many_hosts_as_it_takes(tmp_path: Path) -> None:
    listed(tmp_path, *({"name": name, "site": site} for name, site in zip("abcdef", "122223", strict=True)))
    assert answer_to(tmp_path, SOME).hosts == ("b", "c", "d")
    assert answer_to(tmp_path, Requirement(True, nodes=1, max_nodes=9)).hosts == ("b", "c", "d", "e")
    assert answer_to(tmp_path, Requirement(True, nodes=5, max_nodes=9)).hosts == ()


def test_a_host_that_failed_is_only_given_if_there_are_too_few_others(tmp_path: Path) -> None:
    listed(tmp_path, {"name": "a"}, {"name": "b"})
    assert answer_to(tmp_path, SOME, {"a"}).hosts == ("b",)
    assert answer_to(tmp_path, Requirement(True, nodes=2, max_nodes=3), {"a"}).hosts == ("b", "a")


def test_the_site_with_most_hosts_is_asked_first(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, attempt, reserve=RESERVED)
    apart = [h.model_copy(update={"site": site}) for h, site in zip(hosts("a", "b", "c", "d"), "1222", strict=True)]
    assert names(Placement.on_several(launch(attempt, SOME), apart)) == ["b", "c", "d"]


def rented(name: str, **fields: Any) -> RentedHost:
    return RentedHost(name=name, address="x", user="u", folder=Path("/r", name), expires=4e9, site="east", **fields)


def test_a_rented_host_that_others_do_not_reach_runs_the_job_alone(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, attempt, reserve=RESERVED, reserve_b=BUSY, stop=STOPPED)
    public, private = rented("a"), [rented(name, network_address="10.0.0.1") for name in ("b", "c")]
    assert names(Placement.on_several(launch(attempt, SOME), [public, *private])) == ["c"]
    assert names(Placement.on_several(launch(attempt, SOME), [public, private[0]])) == ["a"]


def test_torchrun_is_told_how_many_hosts_there_are(attempt: Attempt) -> None:
    given = launch(attempt, SOME)
    alone = commands._argv(given, hosts("a"), 0)
    together = commands._argv(given, hosts("a", "b"), 1)
    assert "--nnodes" not in alone
    assert together[together.index("--nnodes") + 1] == "2"


# --- after a failure --------------------------------------------------------------------------------------------------


def test_only_a_host_that_is_gone_or_fails_twice_is_avoided_and_only_next_time() -> None:
    avoided = AvoidedHosts()
    for host, gone, expected in [
        ("a", True, {"a"}), ("b", False, set()), ("b", False, {"b"}), ("a", False, set()), (None, True, set()),
    ]:  # fmt: skip
        avoided.add(SOME, host, gone=gone)
        assert avoided.names == expected
    fixed = AvoidedHosts()
    for host in ("a", "b"):
        fixed.add(Requirement(True, nodes=2), host, gone=False)
    assert fixed.names == {"a", "b"}


def test_which_hosts_are_gone() -> None:
    def outcome(error: str | None, **ending: Any) -> JobOutcome:
        result: Any = error and {"ok": False, "error": {"type": error, "message": "m", "user": False}}
        return JobOutcome.of(Ending(host="a", **ending), result)

    assert outcome(None, lost="a has been silent").is_host_gone
    assert outcome("Stopped", code=75).is_host_gone
    assert outcome("HostDiskFullError", code=1).is_host_gone
    assert not outcome(None, code=-9, lost="killed by signal 9").is_host_gone
    assert not outcome("RuntimeError", code=1).is_host_gone


@pytest.fixture
def steps(instance: dg.DagsterInstance, store_uri: str, attempt: Attempt) -> StageRunner:
    run = instance.get_run_by_id(attempt.spec.run_id)
    context: Any = SimpleNamespace(
        instance=instance, run=run, asset_key=dg.AssetKey(STAGE.name), log=SimpleNamespace(info=print, warning=print)
    )
    return StageRunner(
        context, STAGE, attempt, ArtifactStore.open(store_uri), program=(), pipes_env={}, grace_seconds=1,
        handle=print, say=print,
    )  # fmt: skip


def asked_of(steps: StageRunner, monkeypatch: pytest.MonkeyPatch, *found: Host, **replies: Any) -> Agents:
    listed(steps._home, *({"name": host.name} for host in found))
    agents = ask(monkeypatch, steps._attempt, reserve=RESERVED, start=STARTED, stop=STOPPED, **replies)
    agents.starts = lambda request: steps._attempt.folder.create_json(
        f"claim/node{request['node']}.json", {"host": request["host"], "boot": "b"}
    )
    return agents


def test_a_host_that_refuses_to_start_is_left_out_of_another_attempt(
    steps: StageRunner, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first attempt one host has started its part, and would wait for the other."""
    agents = asked_of(
        steps, monkeypatch, *hosts("a", "b", "c"), reserve_c=BUSY, start_b={"state": "full", "reason": "no room"}
    )
    followed: list[str] = []
    monkeypatch.setattr(runner.RunningJob, "follow", lambda job, *_: followed.extend(job.host_names))
    monkeypatch.setattr(steps, "_tag", lambda *_: None)
    monkeypatch.setattr(steps._usage, "begin", lambda *_: None)
    steps._run_attempt(SOME)
    assert followed == ["a"]
    assert steps._attempt.spec.attempt == attempt.spec.attempt + 1
    assert attempt.folder.read_json("cancel.json") == {"reason": "it is started on other hosts"}
    assert attempt.folder.read_json("superseded.json") is not None
    assert agents.asked.index("stop b") > agents.asked.index("start b"), "its lease is given back"


def test_a_start_that_is_refused_everywhere_stays_the_same_attempt(
    steps: StageRunner, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = iter([{"state": "full", "reason": "no room"}] * 3)
    agents = asked_of(steps, monkeypatch, *hosts("a"))
    real = runner.Placement.start

    def start(placed: Placement) -> None:
        if refusal := next(replies, None):
            placed.launch.attempt.assign([host.name for host in placed.hosts])
            raise NoHostError(refusal["reason"], {placed.hosts[0].name: Refusal(refusal["reason"])})
        real(placed)

    monkeypatch.setattr(runner.Placement, "start", start)
    steps._acquire_hosts(launch(attempt, SOME))
    assert agents.asked.count("start a") == 1
    assert steps._attempt is attempt
