"""The allocator: order, fairness and what it knows about hosts; the leases on the hosts still decide."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.agent import processes
from aquarat_core.artifacts import ArtifactStore, StoreError
from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.hosts.allocator import Allocator, SharedAllocator
from aquarat_pipeline.hosts.occupancy import folder, occupy, vacate
from aquarat_pipeline.hosts.queueing import HeldLease, Refusal, Ticket, queue, ticket
from aquarat_pipeline.hosts.records import replace
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.hosts.watching import ABSENT_SECONDS, SILENT_SECONDS, Watcher, read_status
from tests.launching.asking import answer_to, turn
from tests.patience import wait_until

ANY = Requirement(True)
GPU = Requirement(True, device="cuda")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with ExitStack() as stack:
        yield Line(tmp_path, stack)


class Line:
    """Steps that wait, an allocator, and a clock that tests move."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home, self.seconds, self.states = home, 1e9, dict[str, Any]()
        self._stack = stack
        self._created = 0
        self.allocator: Any = None
        stack.callback(lambda: self.allocator and self.allocator.close())

    def hosts(self, *hosts: dict[str, Any]) -> None:
        (self.home / "hosts.yaml").write_text(json.dumps({"hosts": [{"address": "x", **host} for host in hosts]}))

    def wait(self, need: Requirement, run: str | None = None, created: float | None = None) -> Ticket:
        self._created += 1
        name, created = run or f"run{self._created}", created or float(self._created)
        return self._stack.enter_context(ticket(self.home, name, "step", created, need))

    def turn(self, after: float = 2.0) -> None:
        """Also reads the store to the end, because the threads that do have no part in the clock."""
        self.seconds += after
        if self.allocator is None:
            watcher = Watcher(lambda: self.seconds, self._read)
            self.allocator = Allocator(self.home, lambda: self.seconds, watcher)
        for _ in range(3):
            self.allocator.turn()
            for one in self.allocator.watcher._watched.values():
                if one.reading:
                    one.reading.exception()
            self.allocator.fleet._looked = float("-inf")

    def _read(self, mark: str) -> Any:
        found = self.states.get(mark)
        if isinstance(found, Exception):
            raise found
        return found

    def start(self, mine: Ticket, job: str = "file:///s/jobs/r/s/1") -> None:
        """What a worker does whose job was accepted."""
        answer = mine.answer()
        assert answer and answer.hosts
        taken = [(name, mine.record.need.ranks if mine.record.need.device == "cuda" else 0) for name in answer.hosts]
        occupy(self.home, mine.name, mine.record.run, "step", job, taken)
        (queue(self.home) / f"{mine.name}.json").unlink()


def hosts_of(mine: Ticket) -> tuple[str, ...]:
    answer = mine.answer()
    return answer.hosts if answer else ()


def why_of(mine: Ticket) -> str:
    answer = mine.answer()
    return answer.why if answer else ""


def test_the_cheapest_fitting_host_comes_first_and_a_failed_one_last(line: Line) -> None:
    line.hosts(
        {"name": "dear", "gpus": 8, "price_per_hour": 9}, {"name": "cheap", "gpus": 8}, {"name": "small", "gpus": 2}
    )
    need = Requirement(True, 4, device="cuda")
    assert answer_to(line.home, need).hosts == ("cheap",)
    assert answer_to(line.home, need, {"cheap"}).hosts == ("dear",)
    assert answer_to(line.home, need, {"cheap", "dear"}).hosts == ("cheap",)
    why = answer_to(line.home, Requirement(True, 4, device="cuda", pool="tpu")).why
    assert why.startswith("a host labeled tpu with 4 GPUs: hosts.yaml has 0 of these")
    line.hosts({"name": "a", "site": "a"}, {"name": "b", "site": "b"})
    assert "hosts.yaml has 2 of these, not enough at one site" in answer_to(line.home, Requirement(True, nodes=2)).why
    (line.home / "hosts.yaml").write_text("hosts: [")
    assert "a usable inventory" in answer_to(line.home, ANY).why


def test_the_oldest_goes_first_and_what_it_could_use_is_kept_for_it(line: Line) -> None:
    line.hosts({"name": "a", "gpus": 2, "max_leases": 2}, {"name": "b", "labels": ["b"]})
    one, two = line.wait(GPU), line.wait(Requirement(True, 2, device="cuda"))
    three, four = line.wait(GPU), line.wait(Requirement(True, pool="b"))
    line.turn()
    assert [hosts_of(each) for each in (one, two, three, four)] == [("a",), (), (), ("b",)]
    assert why_of(two) == "a host with 2 GPUs: a: another job was first"
    assert why_of(three) == "a host with 1 GPU: others were first in line", "although a GPU is free"
    line.start(one)
    line.turn()
    assert why_of(two) == "a host with 2 GPUs: a: in use by step of run run1"
    vacate(line.home, one.name)
    line.turn()
    assert (hosts_of(two), hosts_of(three)) == (("a",), ())
    line.start(two)
    vacate(line.home, two.name)
    line.turn()
    assert hosts_of(three) == ("a",)


def test_a_late_ticket_of_an_older_run_goes_before_younger_ones(line: Line) -> None:
    line.hosts({"name": "a"})
    first, young = line.wait(ANY), line.wait(ANY)
    line.turn()
    line.start(first)
    old = line.wait(ANY, created=1.5)
    line.turn()
    vacate(line.home, first.name)
    line.turn()
    assert (hosts_of(old), hosts_of(young)) == (("a",), ())


def test_a_job_on_several_hosts_gets_all_of_them_at_one_site(line: Line) -> None:
    line.hosts(*({"name": f"{site}{k}", "site": site} for site in "ab" for k in range(2)))
    busy = line.wait(Requirement(True, host="a1"))
    two, younger = line.wait(Requirement(True, nodes=2)), line.wait(ANY)
    line.turn()
    assert (hosts_of(busy), hosts_of(two), hosts_of(younger)) == (("a1",), ("b0", "b1"), ("a0",))


def test_a_host_that_refuses_rests_and_others_are_tried(line: Line) -> None:
    line.hosts({"name": "a"}, {"name": "b", "price_per_hour": 1})
    mine = line.wait(ANY)
    line.turn()
    mine.refuse(mine.answer().number, {"a": Refusal("it cannot be reached")})
    line.turn(0.5)
    assert hosts_of(mine) == ("b",)
    mine.refuse(mine.answer().number, {"b": Refusal("0 GB free")})
    line.turn(0.5)
    assert why_of(mine) == "a host for 1 process: a: it cannot be reached; b: 0 GB free"
    line.turn(2.1)
    assert hosts_of(mine) == ("a",), "it is tried again"
    mine.refuse(mine.answer().number, {"a": Refusal("it cannot be reached")})
    line.turn(0.1)
    assert hosts_of(mine) == ("b",)
    # Another process becomes the allocator: what the hosts said last is in the ticket.
    turn(line.home, lambda: line.seconds)
    assert hosts_of(mine) == ("b",)


def test_a_host_that_another_control_host_uses_is_asked_again_when_the_store_says_that_it_is_free(line: Line) -> None:
    line.hosts({"name": "a", "gpus": 4, "max_leases": 4})
    theirs = "file:///s/jobs/theirs/s/1#node0"
    line.states[theirs] = {"state": "running", "sequence": 1}
    mine = line.wait(Requirement(True, 2, device="cuda"))
    line.turn()
    mine.refuse(mine.answer().number, {"a": Refusal("1 of 4 GPUs free, 2 needed", (HeldLease(theirs, 3),))})
    small = line.wait(Requirement(True, device="cuda"), created=0.5)
    for sequence in range(2, 40):
        line.states[theirs] = {"state": "running", "sequence": sequence}
        line.turn(10)
        assert (hosts_of(mine), hosts_of(small)) == ((), ("a",)), "one GPU is free, and nobody asks for two"
    assert "in use by another control host" in why_of(mine)
    line.states[theirs] = StoreError("away")
    line.turn(SILENT_SECONDS + 10)
    assert hosts_of(mine) == (), "a store that cannot be read says nothing"
    line.states[theirs] = {"state": "ended", "sequence": 99}
    line.turn(10)
    assert hosts_of(mine) == ("a",)


def test_jobs_that_nobody_follows_are_free_when_the_store_says_so(line: Line, dead: dict[str, Any]) -> None:
    line.hosts({"name": "a"}, {"name": "b"}, {"name": "c"})
    ended, silent, never = (line.wait(Requirement(True, host=host), host) for host in "abc")
    line.turn()
    for mine, job in ((ended, "1"), (silent, "2"), (never, "3")):
        line.start(mine, f"file:///s/jobs/r/s/{job}")
        path = folder(line.home) / f"{mine.name}.json"
        replace(path, json.loads(path.read_text()) | {"process": dead})
    waiting = [line.wait(Requirement(True, host=host)) for host in "abc"]
    line.states |= {f"file:///s/jobs/r/s/{job}#node0": {"state": "running", "sequence": 1} for job in "12"}
    line.turn()
    assert [hosts_of(each) for each in waiting] == [(), (), ()]
    line.states["file:///s/jobs/r/s/1#node0"] = {"state": "ended"}
    line.turn(10)
    assert [hosts_of(each) for each in waiting] == [("a",), (), ()]
    line.turn(ABSENT_SECONDS)
    assert [hosts_of(each) for each in waiting] == [("a",), (), ("c",)]
    line.turn(SILENT_SECONDS)
    assert hosts_of(waiting[1]) == ("b",)


def test_heartbeats_are_read_from_the_jobs_folder(store_uri: str) -> None:
    job = ArtifactStore.open(store_uri).job("run", "step", 1)
    assert read_status(f"{job.uri}#node0") is None
    job.backend.write(f"{job.prefix}/status/node0.json", b'{"state": "ended"}')
    assert read_status(f"{job.uri}#node0") is None, "a heartbeat without its fields says nothing"
    status = {"node": 0, "host": "a", "supervisor": {}, "state": "running", "sequence": 1, "chunks": 0}
    job.write_json("status/node0.json", status)
    assert read_status(f"{job.uri}#node0")["state"] == "running"
    with pytest.raises(StoreError):
        read_status("anything")


@pytest.fixture
def dead() -> dict[str, Any]:
    """The identity of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = processes.identity(child.pid)
    child.communicate(b"\n")
    return {**who}


def test_dead_steps_hold_nobody_up(line: Line, dead: dict[str, Any]) -> None:
    line.hosts({"name": "a"})
    old, new = line.wait(ANY), line.wait(ANY)
    line.turn()
    assert hosts_of(old) == ("a",)
    path = queue(line.home) / f"{old.name}.json"
    replace(path, json.loads(path.read_text()) | {"process": dead})
    line.turn(6)
    assert hosts_of(new) == ("a",) and not path.exists(), "its grant is given to the next"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hosts": 3, "process": {}}', '{"hosts": ["local"], "process": 1}'])
def test_a_ticket_that_cannot_be_read_holds_nobody_up(line: Line, text: str) -> None:
    mine = line.wait(ANY)
    older = queue(line.home) / f"{0.5:017.3f}-older.json"
    older.write_text(text)
    line.turn()
    assert hosts_of(mine) == ("local",) and not older.exists()


def test_a_step_that_waits_again_is_not_misled_by_an_old_answer(line: Line) -> None:
    line.hosts({"name": "a"})
    first = line.wait(ANY, "run", 1.0)
    line.turn()
    line.start(first)
    again = line.wait(ANY, "run", 1.0)
    assert again.name == first.name and again.answer() is None
    line.turn()
    assert why_of(again).endswith("a: in use by step of run run")


def test_another_process_goes_on_when_the_allocator_is_killed(line: Line) -> None:
    line.hosts({"name": "a"})
    program = (
        "import sys, time, pathlib\nfrom aquarat_pipeline.hosts.allocator import SharedAllocator\n"
        "shared = SharedAllocator(pathlib.Path(sys.argv[1]))\nshared.turn()\nprint('here', flush=True)\ntime.sleep(600)"
    )
    env = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
    child = subprocess.Popen([sys.executable, "-c", program, str(line.home)], stdout=subprocess.PIPE, env=env)
    assert child.stdout is not None and child.stdout.readline() == b"here\n"
    mine, shared = line.wait(ANY), SharedAllocator(line.home)
    with child:
        try:
            assert shared.wait(mine, 0.3) is None, "the one that is at work does not look"
            child.kill()
            child.wait()
            wait_until(lambda: shared.wait(mine, 0.3), 10, "the waiting step's own process decides")
            assert hosts_of(mine) == ("a",)
        finally:
            child.kill()
            shared.close()


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_no_gpu_is_given_twice_and_nobody_starves(line: Line, seed: int, dead: dict[str, Any]) -> None:
    """Random arrivals, refusals, ends and deaths, of workers and of the allocator; equal needs start in order."""
    rng = random.Random(seed)
    line.hosts(*({"name": f"h{k}", "gpus": 4, "max_leases": 4} for k in range(3)))
    waiting: list[Ticket] = []
    running: dict[str, tuple[Ticket, tuple[str, ...]]] = {}
    begun: dict[int, list[int]] = {1: [], 2: [], 4: []}
    arrived = ended = 0
    while ended < 60:
        if arrived < 60 and rng.random() < 0.5:
            arrived += 1
            waiting.append(line.wait(Requirement(True, rng.choice((1, 1, 2, 4)), device="cuda"), f"run{arrived}"))
        if rng.random() < 0.1 and line.allocator:
            line.allocator.close()
            line.allocator = None
        line.turn(rng.uniform(0.5, 8))
        for mine in [one for one in waiting if hosts_of(one) and hosts_of(one) != ("",)]:
            answer = mine.answer()
            if answer.number == mine.refused_number:
                continue
            if rng.random() < 0.15:
                mine.refuse(answer.number, {answer.hosts[0]: Refusal("no")})
                continue
            line.start(mine, f"file:///s/jobs/{mine.record.run}/s/1")
            waiting.remove(mine)
            running[mine.name] = mine, answer.hosts
            begun[mine.record.need.ranks].append(int(mine.record.run[3:]))
        for host in ("h0", "h1", "h2"):
            used = sum(mine.record.need.ranks for mine, hosts in running.values() if host in hosts)
            assert used <= 4, running
        for name in [name for name in running if rng.random() < 0.3]:
            vacate(line.home, name)
            del running[name]
            ended += 1
    # A refusal may let the next in line pass; but no further than the other hosts reach.
    for order in begun.values():
        assert all(later - earlier < 25 for earlier, later in zip(sorted(order), order, strict=True)), order
