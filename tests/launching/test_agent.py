"""The agent on this machine: starting once, leases, ending, fencing, output. No Dagster, no torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.agent import leases, logs, output, processes
from aquarat_core.agent.folder import FileFolder
from aquarat_pipeline.hosts.bundle import agent
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.transports import HostError, LocalTransport
from tests.patience import wait_until

pytestmark = pytest.mark.slow

LEAVES_A_CHILD = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True); print('left', flush=True)"
)
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"

FILLS = (
    "import os, time; folder = os.environ['AQUARAT_SCRATCH']; os.makedirs(folder + '/sub');"
    "[open(f'{folder}/{name}', 'w').write('x') for name in ('sub/more', 'rank.log', 'weights')];"
    "os.symlink('sub', folder + '/link'); print(folder, flush=True); time.sleep(600)"
)


class HostHere:
    """An agent with a root of its own, and jobs in a folder of the store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = Host(name="here", transport="local", root=str(directory / "root"))
        self.call = LocalTransport(self.host).call

    def order(self, job: str = "a", code: str = "print('hello')", **changes: Any) -> dict[str, Any]:
        uri = f"file://{self.directory}/store/jobs/run/{job}/1"
        return {
            "id": hashlib.sha256(uri.encode()).hexdigest()[:16],
            "job": uri,
            "mark": f"{uri}#node0",
            "owner": "0123456789",
            "step": job,
            "host": "here",
            "node": 0,
            "gpus": 0,
            "host_gpus": 0,
            "max_leases": 1,
            "ttl": 3,
            "argv": [sys.executable, "-u", "-c", code],
            "env": {},
            "inherit": True,
            "cwd": None,
            "ranks": False,
            "token": None,
            "heartbeat": 0.2,
            "grace": 1,
            "min_free_bytes": 0,
            **changes,
        }

    def folder(self, order: dict[str, Any]) -> FileFolder:
        return FileFolder(Path(order["job"].removeprefix("file://")))

    def ended(self, order: dict[str, Any], seconds: float = 30) -> dict[str, Any]:
        """The job's last status; its processes and its lease are gone by then."""

        def look() -> Any:
            status = self.folder(order).read("status/node0.json")
            return status if status and status["state"] == "ended" else None

        status = wait_until(look, seconds, f"{order['step']} ends")
        assert processes.job_processes(order["mark"]) == []
        assert order["id"] not in [lease["id"] for lease in self.call("leases", {})["leases"]]
        return status

    def running(self, order: dict[str, Any]) -> list[int]:
        assert self.call("start", order)["state"] == "started"
        return wait_until(lambda: processes.job_processes(order["mark"]), 20, "the job runs")


@pytest.fixture
def here(tmp_path: Path) -> HostHere:
    return HostHere(tmp_path)


def test_the_bundle_is_one_file_with_a_name_of_its_content(tmp_path: Path) -> None:
    assert agent().name == f"agent-{hashlib.sha256(agent().data).hexdigest()[:16]}.pyz"
    path = tmp_path / agent().name
    path.write_bytes(agent().data)
    command = [sys.executable, "-I", "-S", path, "leases", tmp_path / "root"]
    out = subprocess.run(command, input="{}", capture_output=True, text=True, cwd="/")
    assert json.loads(out.stdout) == {"leases": []}, out.stderr


def test_the_agent_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    program = (
        "import sys, zipimport, importlib; sys.path.insert(0, sys.argv[1]);"
        "[importlib.import_module('aquarat_agent.' + n) for n in ('main', 'doctor', 'folder')];"
        "known = {*sys.stdlib_module_names, 'aquarat_agent', '__main__'};"
        "print([m for m in sys.modules if m.split('.')[0] not in known])"
    )
    bundle = tmp_path / agent().name
    bundle.write_bytes(agent().data)
    out = subprocess.run([sys.executable, "-I", "-S", "-c", program, bundle], capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13"])
def test_the_agent_runs_under_the_pythons_of_hosts(tmp_path: Path, version: str) -> None:
    candidates = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python3")]
    works = (c for c in candidates if c and subprocess.run([c, "-c", ""], capture_output=True).returncode == 0)
    python = next(works, None)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    path = tmp_path / agent().name
    path.write_bytes(agent().data)
    here = HostHere(tmp_path)
    order = here.order(argv=["/bin/echo", "hello"])

    def call(command: str, request: dict[str, Any]) -> dict[str, Any]:
        line = [python, "-I", "-S", path, command, tmp_path / "root"]
        out = subprocess.run(line, input=json.dumps(request), capture_output=True, text=True, cwd="/")
        return json.loads(out.stdout)

    assert call("start", order) == {"state": "started", "gpus": []}
    status = here.ended(order)
    assert (status["code"], status["tail"]) == (0, ["hello"])
    assert call("status", order) == {"state": "gone"} and call("leases", {}) == {"leases": []}
    assert call("arm", {"end_in": 0, "orphan_after": 60, "power_off": False})["state"] == "armed"
    wait_until(lambda: leases.drained(tmp_path / "root") == "the rental is over", 10, "the switch fires")


def test_a_job_runs_says_what_it_says_and_leaves_nothing(here: HostHere) -> None:
    order = here.order(code=f"{LEAVES_A_CHILD}; import sys; sys.stderr.write('no end of line')")
    assert here.call("start", order) == {"state": "started", "gpus": []}
    status = here.ended(order)
    assert (status["code"], status["signal"], status["reason"], status["complete"]) == (0, None, None, True)
    said = [here.folder(order).read(f"output/node0/{k:06d}.json")["lines"] for k in range(1, status["chunks"] + 1)]
    assert [line for lines in said for line in lines] == ["left", "no end of line"]
    assert status["tail"] == ["left", "no end of line"]
    assert here.call("status", order) == {"state": "gone"}


def test_of_many_starts_at_once_one_starts(here: HostHere) -> None:
    """On the same host by its lock, on different hosts by the claim in the store."""
    order = here.order(code="import time; print('once', flush=True); time.sleep(600)")
    roots = [here.directory / "root", here.directory / "other"]
    command = [sys.executable, "-I", "-S", LocalTransport(here.host)._installed(), "start"]
    starts = [
        subprocess.Popen([*command, roots[k % 2]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for k in range(6)
    ]
    answers = [json.loads(p.communicate(json.dumps(order))[0])["state"] for p in starts]
    assert answers.count("started") == 1
    assert set(answers) <= {"started", "already-started", "claimed"}
    assert answers.count("claimed") == 3
    assert len(processes.job_processes(order["mark"])) == 1
    winner = HostHere(here.directory)
    winner.call = LocalTransport(here.host.model_copy(update={"root": str(roots[answers.index("started") % 2])})).call
    winner.call("stop", order)
    assert winner.ended(order)["reason"] == "asked to stop"


def test_a_lease_is_exclusive_and_says_who_has_it(here: HostHere) -> None:
    first, second = here.order("a", code="import time; time.sleep(600)"), here.order("b")
    here.running(first)
    answer = here.call("start", second)
    held = [{"mark": first["mark"], "gpus": 0, "counts": True}]
    assert answer == {"state": "busy", "reason": "in use by a of run 01234567", "held": held}
    assert here.folder(second).read("claim/node0.json") is None
    assert here.call("release", {"id": first["id"]})["state"] == "released"
    here.ended(first)
    assert here.call("start", second)["state"] == "started"
    here.ended(second)


def test_jobs_on_one_host_get_gpus_of_their_own(tmp_path: Path) -> None:
    want = {"job": "j", "owner": "o", "step": "s", "host_gpus": 4, "max_leases": 3, "ttl": 60}

    def take(job: str, gpus: int) -> Any:
        lease = leases.acquire(tmp_path, {**want, "id": job, "mark": job, "gpus": gpus})
        return lease.get("busy") or lease["gpus"]

    assert take("a", 2) == [0, 1]
    assert take("b", 1) == [2]
    assert take("c", 2) == "1 of 4 GPUs free, 2 needed"
    assert leases.drop(tmp_path, "a")
    assert take("c", 2) == [0, 1]
    assert take("b", 1) == [2]


def test_a_dead_jobs_lease_is_broken_and_its_leftovers_killed(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", DEAF], env={**os.environ, processes.ENV_TAG: "dead"})
    want = {"owner": "o", "step": "s", "host_gpus": 0, "gpus": 0, "max_leases": 1}
    dead = leases.acquire(tmp_path, {**want, "id": "dead", "mark": "dead", "job": "dead", "ttl": 0.5})
    assert "busy" in leases.acquire(tmp_path, {**want, "id": "new", "mark": "new", "job": "new", "ttl": 60})
    time.sleep(0.6)
    assert leases.acquire(tmp_path, {**want, "id": "new", "mark": "new", "job": "new", "ttl": 60})["id"] == "new"
    assert left.wait(5) == -signal.SIGKILL
    assert dead["id"] == "dead"


def test_a_lease_of_before_a_restart_does_not_hold(tmp_path: Path) -> None:
    want = {"owner": "o", "step": "s", "host_gpus": 0, "gpus": 0, "max_leases": 1, "ttl": 1e6}
    lease = leases.acquire(tmp_path, {**want, "id": "old", "mark": "old", "job": "old"})
    (tmp_path / "leases/old.json").write_text(json.dumps({**lease, "boot": "another"}))
    assert leases.listing(tmp_path, {}) == {"leases": []}


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_job_that_ignores_sigterm_is_ended_all_the_same(here: HostHere, how: str) -> None:
    order = here.order(code=DEAF)
    here.running(order)
    wait_until(lambda: here.folder(order).read("output/node0/000001.json"), 10, "it has become deaf")
    if how == "stop":
        assert here.call("stop", order) == {"state": "stopping"}
    else:
        here.folder(order).create("cancel.json", {"reason": "test"})
    status = here.ended(order, seconds=10)
    assert status["reason"] == {"stop": "asked to stop", "cancel": "cancelled"}[how]
    assert status["code"] == -signal.SIGKILL


def test_a_killed_supervisor_is_avenged_by_its_watchdog(here: HostHere) -> None:
    order = here.order(code="import time; print('on', flush=True); time.sleep(600)")
    here.running(order)
    folder = here.folder(order)
    wait_until(lambda: (folder.read("status/node0.json") or {}).get("chunks"), 10, "output arrives")
    os.kill(folder.read("status/node0.json")["supervisor"]["pid"], signal.SIGKILL)
    status = here.ended(order, seconds=10)
    assert status["reason"] == "its supervisor was killed"
    assert status["chunks"] == 1


def test_supervisor_and_watchdog_killed_together_leave_the_lease_to_run_out(here: HostHere) -> None:
    order = here.order(code="import time; time.sleep(600)")
    here.running(order)
    held = json.loads((here.directory / "root/leases" / f"{order['id']}.json").read_text())
    for process in reversed(held["processes"]):  # the watchdog first: it would clean up after the supervisor
        os.kill(process["pid"], signal.SIGKILL)
    assert processes.job_processes(order["mark"])
    wait_until(lambda: not here.call("leases", {})["leases"], 10, "the lease runs out")
    assert processes.job_processes(order["mark"]) == []


def test_a_jobs_scratch_space_goes_with_the_job_but_for_its_logs(here: HostHere) -> None:
    order = here.order(code=FILLS)
    here.running(order)
    scratch = here.directory / "root/jobs" / order["id"] / "scratch"
    wait_until(lambda: here.folder(order).read("output/node0/000001.json"), 10, "it has filled its space")
    assert here.folder(order).read("output/node0/000001.json")["lines"] == [str(scratch)]
    assert here.call("stop", order) == {"state": "stopping"}
    here.ended(order)
    assert [path.name for path in scratch.rglob("*")] == ["rank.log"]


def test_what_a_restart_of_the_host_left_goes_before_there_is_said_to_be_no_room(here: HostHere) -> None:
    """Supervisor and watchdog die together; a job that lives, on the same host, keeps what it has."""
    living, dead = here.order("living", FILLS, max_leases=None), here.order("dead", FILLS, ttl=60, max_leases=None)
    here.running(living)
    here.running(dead)
    jobs, lease = here.directory / "root/jobs", here.directory / "root/leases" / f"{dead['id']}.json"
    for order in (living, dead):
        wait_until((jobs / order["id"] / "scratch/weights").exists, 10, "it has filled its space")
    held = json.loads(lease.read_text())
    for process in reversed(held["processes"]):
        os.kill(process["pid"], signal.SIGKILL)
    lease.write_text(json.dumps({**held, "boot": "another"}))
    assert here.call("start", here.order("next", min_free_bytes=10**18))["state"] == "full"
    assert processes.job_processes(dead["mark"]) == []
    assert [path.name for path in (jobs / dead["id"] / "scratch").rglob("*")] == ["rank.log"]
    assert (jobs / living["id"] / "scratch/weights").exists()
    here.call("stop", living)
    here.ended(living)


def test_a_job_out_of_touch_with_the_store_stops_itself(here: HostHere) -> None:
    order = here.order(code=DEAF)
    here.running(order)
    wait_until(lambda: here.folder(order).read("status/node0.json"), 10, "the first heartbeat")
    (here.directory / "store").rename(here.directory / "away")
    (here.directory / "store").write_text("no directory: every write fails")
    gone = time.monotonic()
    wait_until(lambda: not processes.job_processes(order["mark"]), 10, "it stops itself")
    assert time.monotonic() - gone > 1.5, "it gave up before its lease had run out"
    (here.directory / "store").unlink()
    (here.directory / "away").rename(here.directory / "store")
    assert "the store could not be reached" in here.ended(order)["reason"]


def test_a_full_host_refuses_before_it_claims(here: HostHere) -> None:
    answer = here.call("start", here.order(min_free_bytes=10**18))
    assert answer["state"] == "full"
    assert answer["reason"].endswith(f"GB free on {here.directory}/root")
    assert here.call("leases", {}) == {"leases": []}


def test_a_program_is_found_in_the_home_folder(here: HostHere, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the interpreter of a host is whose root is the default."""
    monkeypatch.setenv("HOME", str(here.directory))
    (here.directory / "python").symlink_to(sys.executable)
    order = here.order(argv=["~/python", "-c", "print('at home')"])
    here.call("start", order)
    assert here.ended(order)["tail"] == ["at home"]


def test_a_program_that_is_not_there_is_said(here: HostHere) -> None:
    order = here.order(argv=["/nowhere/python"])
    here.call("start", order)
    status = here.ended(order)
    assert status["code"] is None
    assert status["reason"].startswith("/nowhere/python cannot be started")


def test_an_agents_error_is_an_error_here(here: HostHere) -> None:
    said = "the agent on here: ValueError: a host can reach file:// and gs:// stores"
    with pytest.raises(HostError, match=rf"(?s){said}.*Traceback.*open_folder"):
        here.call("start", here.order(job="a") | {"job": "memory://x/jobs/r/s/1"})
    assert here.call("leases", {}) == {"leases": []}


def test_ranks_are_told_apart_and_torchruns_word_is_kept() -> None:
    out = output.Output(ranks=True, messages=Path("/nowhere"))
    out.feed(b"[default0]:one\n[default1]:two\nW0101 launcher speaks\n  exitcode  : -9 (pid: 7)\n[default0]:thr")
    out.feed(b"ee\n")
    assert out.take() == {"lines": ["one", "three"], "messages": []}
    assert list(out.tail) == ["one", "rank 1: two", "three"]
    assert out.signal == 9


def test_the_first_rank_to_die_is_the_cause() -> None:
    out = output.Output(ranks=True, messages=Path("/nowhere"))
    out.feed(b"E1124 failed (exitcode: 7) local_rank: 1 (pid: 8) of binary: python\n  exitcode  : -15 (pid: 7)\n")
    assert out.signal is None


def test_output_is_bounded_while_the_store_is_away() -> None:
    out = output.Output(ranks=False, messages=Path("/nowhere"))
    line = b"x" * 999 + b"\n"
    while not out.is_full:
        out.feed(line)
    out.make_room()
    assert not out.is_full
    chunk = out.take()
    dropped = int(chunk["lines"][0].split()[1])
    kept = len(chunk["lines"]) - 1
    while more := out.take():
        kept += len(more["lines"])
    assert dropped + kept == -(-output.BUFFER_BYTES // 1000)
    assert kept >= output.BUFFER_BYTES // 2 // 1000 - 1


WITHOUT_MARK = (
    "import subprocess, sys, time;"
    "child = subprocess.Popen(['env', '-i', 'setsid', 'sh', '-c', 'sleep 600 & echo $!; exec sleep 600'],"
    " stdout=subprocess.PIPE, text=True); print(child.pid, child.stdout.readline().strip(), flush=True);"
)


def without_mark(here: HostHere, order: dict[str, Any]) -> list[dict[str, Any]]:
    """Starts the job; the processes that it started with an empty environment."""
    here.running(order)
    folder = here.folder(order)
    said = wait_until(lambda: folder.read("output/node0/000001.json"), 20, "it has started them")["lines"][0]
    found = [processes.identity(int(pid)) for pid in said.split()]
    assert all(map(processes.is_alive, found))
    return found


@pytest.mark.parametrize("end", ["its end", "a stop"])
def test_children_with_an_empty_environment_end_with_the_job(here: HostHere, end: str) -> None:
    rest = "sys.stdin.read()" if end == "its end" else "time.sleep(600)"
    order = here.order(code=WITHOUT_MARK + ("time.sleep(1);" if end == "its end" else "") + rest)
    left = without_mark(here, order)
    if end == "a stop":
        here.call("stop", order)
    here.ended(order)
    assert not any(map(processes.is_alive, left))


def test_children_with_an_empty_environment_end_when_the_supervisor_is_killed(here: HostHere) -> None:
    order = here.order(code=WITHOUT_MARK + "time.sleep(600)", ttl=60)
    left = without_mark(here, order)
    folder = here.folder(order)
    first = folder.read("status/node0.json")["sequence"]
    # The watchdog looks once a second, so it has seen them once some heartbeats have passed.
    wait_until(lambda: folder.read("status/node0.json")["sequence"] > first + 12, 20, "heartbeats")
    os.kill(folder.read("status/node0.json")["supervisor"]["pid"], signal.SIGKILL)
    here.ended(order)
    assert not any(map(processes.is_alive, left))


def test_a_frozen_supervisors_job_does_not_outlive_its_lease(here: HostHere) -> None:
    order = here.order(code=DEAF)
    here.running(order)
    folder = here.folder(order)
    supervisor = wait_until(lambda: folder.read("status/node0.json"), 10, "the first heartbeat")["supervisor"]
    os.kill(supervisor["pid"], signal.SIGSTOP)
    try:
        wait_until(lambda: not processes.job_processes(order["mark"]), 20, "the watchdog ends the job")
    finally:
        os.kill(supervisor["pid"], signal.SIGCONT)
    here.ended(order)


@pytest.mark.parametrize("text", ["", "no JSON", "[" * 100_000, "\xff"])
def test_a_cancel_that_is_no_json_ends_the_job(here: HostHere, text: str) -> None:
    order = here.order(code="import time; time.sleep(600)", ttl=60)
    here.running(order)
    path = Path(order["job"].removeprefix("file://"), "cancel.json")
    path.write_text(text, encoding="latin-1")
    assert here.ended(order)["reason"] == "cancelled"
    log = (here.directory / "root/jobs" / order["id"] / "supervisor.log").read_text()
    assert str(path) in log and "Traceback" not in log


def test_a_message_that_is_no_json_is_dropped_and_said(here: HostHere) -> None:
    code = (
        "import os; f = open(os.environ['AQUARAT_SCRATCH'] + '/messages', 'a');"
        "f.write('no JSON\\n' + '[' * 100000 + '\\n' + '{\"method\": \"log\"}\\n')"
    )
    order = here.order(code=code)
    assert here.call("start", order)["state"] == "started"
    status = here.ended(order)
    assert status["code"] == 0
    chunk = here.folder(order).read("output/node0/000001.json")
    assert chunk["messages"] == [{"method": "log"}]
    assert len(chunk["lines"]) == 2 and all("was dropped: it is not JSON" in line for line in chunk["lines"])


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 100_000, '{"id": 1'])
def test_a_lease_that_cannot_be_read_blocks_nobody(here: HostHere, text: str) -> None:
    broken = here.directory / "root/leases/x.json"
    broken.parent.mkdir(parents=True)
    broken.write_text(text)
    assert here.call("leases", {}) == {"leases": []}
    broken.write_text(text)
    order = here.order()
    assert here.call("start", order)["state"] == "started"
    assert here.ended(order)["code"] == 0
    broken.write_text(text)
    assert here.call("release", {"id": "x", "seconds": 1})["state"] == "released"


def test_a_lease_that_cannot_be_read_holds_while_its_supervisor_lives(here: HostHere) -> None:
    order = here.order(code="import time; time.sleep(600)", heartbeat=600, ttl=1200)
    here.running(order)
    lease = here.directory / "root/leases" / f"{order['id']}.json"
    lease.write_text("")
    answer = here.call("start", here.order("b"))
    assert answer["state"] == "busy" and str(lease) in answer["reason"]
    assert here.call("release", {"id": order["id"]})["state"] == "released"
    here.ended(order)


def test_a_logs_size_is_bounded_while_it_is_written_and_the_cut_is_said(here: HostHere) -> None:
    limit = 4 << 20
    code = (
        "import os, time; folder = os.environ['AQUARAT_SCRATCH']; f = open(folder + '/rank.log', 'w')\n"
        "line = 'x' * 1023 + '\\n'\n"
        "while not os.path.exists(folder + '/enough'):\n"
        "    f.write(line * 1024); f.flush(); time.sleep(0.05)\n"
        "f.write('the last line\\n')"
    )
    order = here.order(code=code, log_bytes=limit, ttl=60)
    here.running(order)
    scratch = here.directory / "root/jobs" / order["id"] / "scratch"
    log = scratch / "rank.log"
    wait_until(lambda: log.exists() and log.stat().st_size > 6 * limit, 60, "it has printed much")
    wait_until(lambda: log.stat().st_blocks * 512 <= limit, 20, "the log is cut")
    (scratch / "enough").touch()
    assert here.ended(order)["code"] == 0
    first, *_, last = log.read_text().splitlines()
    assert "bytes of this log were removed" in first and last == "the last line"
    assert log.stat().st_size <= limit
    assert here.call("tail", order)["logs"][f"jobs/{order['id']}/scratch/rank.log"][-1] == "the last line"


def test_folders_that_a_job_removes_meanwhile_do_not_end_the_search_for_logs(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank.log").touch()
    found = logs.logs(tmp_path)
    kept = next(found).parent
    for folder in tmp_path.iterdir():
        if folder != kept:
            shutil.rmtree(folder)
    assert list(found) == []


def test_a_drained_host_takes_no_more_jobs_and_says_what_is_left(here: HostHere) -> None:
    first, second = here.order("a", code="import time; time.sleep(600)"), here.order("b")
    here.running(first)
    reply = here.call("drain", {"reason": "the rental ends"})
    assert (reply["state"], [lease["id"] for lease in reply["leases"]]) == ("drained", [first["id"]])
    assert reply["supervisors"] == 1
    held = [{"mark": first["mark"], "gpus": 0, "counts": True}]
    refused = {"state": "busy", "reason": "it takes no more jobs: the rental ends", "held": held}
    assert here.call("start", second) == here.call("reserve", second) == refused
    assert here.call("start", {**second, "max_leases": None}) == refused
    assert here.folder(second).read("claim/node0.json") is None
    assert here.call("start", first) == {"state": "already-started"}
    reply = here.call("drain", {"reason": "the rental ends", "stop": True})
    assert here.ended(first)["reason"] == "the rental ends"
    wait_until(lambda: here.call("drain", {"reason": "x"})["supervisors"] == 0, 10, "nothing runs here")
    assert here.call("drain", {"reason": "x"}) == {"state": "drained", "leases": [], "supervisors": 0}
    assert here.call("drain", {"reason": None})["state"] == "open"
    assert here.call("start", second)["state"] == "started"
    here.ended(second)


def test_a_lease_that_was_reserved_before_the_drain_is_listed_and_may_start(here: HostHere) -> None:
    """Whoever drained must wait for it: the other hosts of its job have been promised to it too."""
    order = here.order("a")
    assert here.call("reserve", order) == {"state": "reserved"}
    reply = here.call("drain", {"reason": "the rental ends"})
    assert [lease["id"] for lease in reply["leases"]] == [order["id"]]
    assert here.call("start", order)["state"] == "started"
    here.ended(order)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reason": 3}', '{"reason": ""}'])
def test_a_drained_host_stays_so_if_its_file_cannot_be_read(here: HostHere, text: str) -> None:
    order = here.order()
    here.call("drain", {"reason": "x"})
    (Path(here.host.root) / leases.DRAIN).write_text(text)
    drained = {"state": "busy", "reason": "it takes no more jobs: it is drained", "held": []}
    assert here.call("start", order) == drained


def test_of_a_drain_and_many_starts_at_once_none_slips_through(here: HostHere) -> None:
    """What starts after the reply that nothing runs here would die with the host."""
    orders = [here.order(f"job{k}", code="import time; time.sleep(600)") for k in range(4)]
    command = [sys.executable, "-I", "-S", LocalTransport(here.host)._installed()]
    root = str(here.host.root)

    def begin(what: str, request: dict[str, Any]) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started = subprocess.Popen([*command, what, root], **pipes)
        assert started.stdin is not None
        started.stdin.write(json.dumps(request))
        started.stdin.close()
        started.stdin = None
        return started

    starts = [begin("start", {**order, "max_leases": 9}) for order in orders[:2]]
    drain = begin("drain", {"reason": "the rental ends"})
    starts += [begin("start", {**order, "max_leases": 9}) for order in orders[2:]]
    replies = [json.loads(process.communicate()[0]) for process in starts]
    listed = {lease["id"] for lease in json.loads(drain.communicate()[0])["leases"]}
    started = {order["id"] for order, reply in zip(orders, replies, strict=True) if reply["state"] == "started"}
    assert listed == started
    for order in orders:
        if order["id"] in started:
            here.call("stop", order)
            here.ended(order)
