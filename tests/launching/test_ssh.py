"""A host over the OpenSSH client and Debian's sshd on loopback: host keys, the agent, secrets, preparing."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest
from google.oauth2.credentials import Credentials

from aquarat_core.agent.folder import FolderError, open_folder
from aquarat_core.artifacts import JobDir, StoreError
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.credentials import JobToken
from aquarat_core.stages.base import StageSpec
from aquarat_pipeline.hosts import credentials
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.prepare import prepare
from aquarat_pipeline.hosts.transports import HostError, SshTransport
from aquarat_pipeline.jobs import running
from aquarat_pipeline.jobs.attempts import Attempt
from tests.artifacts.emulator import BUCKET, emulator
from tests.folders import files_below
from tests.launching.cluster_fixture import Cluster
from tests.launching.guarded_bucket import GuardedBucket, guarded
from tests.launching.network import SSHD, loopback
from tests.patience import wait_until

pytestmark = pytest.mark.slow

SECRET = "planted-7f3a-secret"
TOKEN = "planted-91bc-token"
OWN = "planted-e04d-own"
PLANTED = (SECRET, TOKEN, OWN)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host named in an ssh configuration, as a user would have it in ~/.ssh/config."""
    if not shutil.which(SSHD) or not shutil.which("ssh"):
        pytest.skip("there is no sshd: install openssh-server and openssh-client")
    with loopback(tmp_path) as (config, fields):
        monkeypatch.setenv("AQUARAT_SSH_CONFIG", str(config))
        made = Host(**fields)
        yield made
        SshTransport(made).close()


def test_the_agent_is_sent_once_and_called_by_its_hash(host: Host) -> None:
    transport = SshTransport(host)
    assert transport.call("leases", {}) == {"leases": []}
    (sent,) = Path(host.root, "agent").iterdir()
    assert sent.name == f"agent-{hashlib.sha256(sent.read_bytes()).hexdigest()[:16]}.pyz"
    written = sent.stat().st_mtime_ns
    assert transport.call("leases", {}) == {"leases": []}
    assert sent.stat().st_mtime_ns == written


def test_the_shared_connection_ends_when_it_is_closed_and_soon_by_itself(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = SshTransport(host)
    transport.call("leases", {})
    (master,) = _masters(transport)
    transport.call("leases", {})
    assert _masters(transport) == [master]
    transport.close()
    wait_until(lambda: not _masters(transport), 10, "the connection is closed")
    transport.close()
    monkeypatch.setattr(SshTransport, "PERSIST_SECONDS", 1)
    transport.call("leases", {})
    wait_until(lambda: not _masters(transport), 10, "the connection ends by itself")


def _masters(transport: SshTransport) -> list[int]:
    """The processes that hold the host's connection open; ssh names them by the path of their socket."""
    argv = ["ssh", *transport._options(), "-G", "--", str(transport._host.address)]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    (socket,) = (line.split()[1] for line in lines if line.startswith("controlpath "))
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _read(pid, "cmdline").startswith(f"ssh: {socket} [mux]")]


def test_an_unknown_host_key_is_refused(host: Host) -> None:
    known = Path(os.environ["AQUARAT_SSH_CONFIG"]).with_name("known_hosts")
    known.write_text("")
    with pytest.raises(HostError, match=r"far \(.*@gpu\) cannot be reached: .*[Hh]ost key verification failed"):
        SshTransport(host).call("leases", {})


def test_an_address_is_never_an_option() -> None:
    with pytest.raises(ValueError, match="cannot start with a dash"):
        Host(name="evil", address="-oProxyCommand=touch /tmp/evil")


def test_a_file_arrives_whole_or_not_at_all(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(host.root, "a folder", "file")
    SshTransport(host).send(b"content", str(path))
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr("aquarat_pipeline.hosts.transports.hashlib.sha256", lambda _: hashlib.sha1(b"other"))
    with pytest.raises(HostError, match="cannot write"):
        SshTransport(host).send(b"damaged on its way", str(path))
    assert path.read_bytes() == b"content"


def in_a_thread(cluster: Cluster, asset: str) -> tuple[Thread, list[dg.ExecuteInProcessResult]]:
    from tests.launching.definitions import defs

    found: list[dg.ExecuteInProcessResult] = []
    job = defs.resolve_implicit_global_asset_job_def()

    def run() -> None:
        found.append(
            job.execute_in_process(
                instance=cluster.instance, asset_selection=[dg.AssetKey(asset)], raise_on_error=False
            )
        )

    thread = Thread(target=run)
    thread.start()
    return thread, found


@pytest.fixture
def bucket(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket that demands tokens, of which the control host has the one that opens all."""
    own = tmp_path_factory.mktemp("control") / "token"
    own.write_text(json.dumps({"token": OWN, "expiry": "2100-01-01T00:00:00+00:00"}))
    with (
        emulator(tmp_path / "bucket") as url,
        guarded(url, own=OWN, narrow=TOKEN, lives=6.0) as made,
    ):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", made.url)
        monkeypatch.setenv("AQUARAT_STORE_TOKEN_FILE", str(own))
        source = Credentials(None, refresh_handler=lambda *_, **__: (OWN, datetime.now() + timedelta(days=1)))
        minter = functools.cache(lambda *job: JobToken(*job, source, made.request))
        monkeypatch.setattr(credentials, "_minter", minter)
        yield made


def test_no_secret_is_seen_anywhere(bucket: GuardedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forwarded key and the store's tokens: in the job's own environment and one private file, nowhere else.

    The job outlives several tokens, each good for six seconds; what it cannot do without is a renewed one.
    """
    monkeypatch.setattr(running, "RENEW_SECONDS", 1.0)
    reach = {"STORAGE_EMULATOR_HOST": bucket.url}
    with loopback(tmp_path, reach) as (config, fields):
        fields |= {"forward": ["WANDB_API_KEY"], "env": {"PYTHONPATH": os.getcwd()}}
        monkeypatch.setenv("AQUARAT_SSH_CONFIG", str(config))
        cluster = Cluster(tmp_path / "cluster", hosts=[fields], store=f"gs://{BUCKET}/team/store", env=reach)
        for name, value in (cluster.environment | {"WANDB_API_KEY": SECRET}).items():
            monkeypatch.setenv(name, value)
        cluster.order("aqua_dataset", steps=1)
        cluster.order("sft_checkpoint", steps=8, seconds=1, hold=7)
        first, _ = in_a_thread(cluster, "aqua_dataset")
        first.join()
        thread, found = in_a_thread(cluster, "sft_checkpoint")
        # The last step is made once a third token is in use.
        release = lambda: len(bucket.used) >= 3 and cluster.release("sft_checkpoint")  # noqa: E731
        private, lines, environments = _watch(thread, tmp_path, release)
        assert found[0].success, cluster.story(found[0].run_id)
        assert lines == set()
        assert environments, "the job did not get what is forwarded to it"
        assert private and all(p.startswith(f"{fields['root']}/jobs/") and p.endswith("/token 600") for p in private)
        assert _files_with(tmp_path, *PLANTED) == set()
        assert not any(planted in repr(list(cluster.instance.all_logs(found[0].run_id))) for planted in PLANTED)
        assert len(bucket.used) >= 3, "the host went on with the tokens of its start"
        assert not [refusal for refusal in bucket.refused if not refusal.startswith(TOKEN)]
        cluster.close()


def test_a_hosts_token_opens_what_its_job_needs_and_no_more(
    bucket: GuardedBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither through a stage's store nor through the agent's folder, be it read, written, listed or removed."""
    bucket.lives = 600.0
    mine, other = f"gs://{BUCKET}/team/store", f"gs://{BUCKET}/team/stores"
    store = open_backend(mine)
    theirs = ("jobs/r/s/2/spec.json", "jobs/r2/s/1/launch.json", "work/rl_checkpoint/x", "pins/x.json", "other.json",
              "refs/rl_checkpoint/latest.json", "refs/sft_checkpoint/latest.json")  # fmt: skip
    for key in (*theirs, "manifests/there.json", "blobs/sha256/aa/there"):
        store.write(key, b"{}")
    JobDir(open_backend(other), "jobs/r/s/1").write_json("spec.json", {"theirs": True})
    spec = {"stage": "sft_checkpoint", "store": "gs://payroll/secret", "profile": "p", "config": None, "inputs": {}}
    spec |= {"code": {"version": "v"}, "run_id": "r", "step_key": "s"}
    attempt = Attempt(JobDir(store, "jobs/r/s/1"), StageSpec.model_validate(spec), 0, {})
    token = credentials.host_token(attempt.folder, attempt.spec.stage)["token"]
    path = tmp_path / "token"
    path.write_text(json.dumps({"token": token, "expiry": "2100-01-01T00:00:00+00:00"}))
    monkeypatch.setenv("AQUARAT_STORE_TOKEN_FILE", str(path))
    narrow = open_backend(mine)

    job, folder = JobDir(narrow, "jobs/r/s/1"), open_folder(f"{mine}/jobs/r/s/1", lambda: token)
    for sequence in (1, 2):
        status = {"state": "running", "sequence": sequence, "chunks": 0}
        job.write_json("status/node0.json", status)
    assert job.read_json("status/node0.json") == status and folder.create("claim/node0.json", {}) is True
    assert list(narrow.keys("jobs/r/s/1/")) == ["jobs/r/s/1/claim/node0.json", "jobs/r/s/1/status/node0.json"]
    for key in ("work/sft_checkpoint/k/1/commit.json", "shards/sft_checkpoint/k/d.json", "blobs/sha256/aa/b", "tmp/x"):
        narrow.write(key, b"1")
        assert narrow.read(key).data == b"1" and narrow.delete(key)
    assert narrow.create("manifests/new.json", b"{}") and narrow.read("manifests/new.json").data == b"{}"
    assert not narrow.create("manifests/new.json", b"other") and list(narrow.keys("manifests/"))

    refused: list[Callable[[], Any]] = [
        lambda: narrow.write("manifests/there.json", b"forged"),
        lambda: narrow.delete("manifests/there.json"),
        lambda: list(narrow.keys("jobs/")),
        lambda: list(narrow.keys("")),
        lambda: JobDir(open_backend(other), "jobs/r/s/1").read_json("spec.json"),
        lambda: JobDir(open_backend(other), "jobs/r/s/1").write_json("spec.json", {}),
        lambda: open_folder(f"{other}/jobs/r/s/1", lambda: token).read("spec.json"),
        lambda: open_folder(f"{mine}/jobs/r/s/2", lambda: token).create("claim/node0.json", {}),
    ]
    for key in theirs:
        refused += [partial(narrow.read, key), partial(narrow.write, key, b"forged"), partial(narrow.delete, key)]
    for use in refused:
        before = len(bucket.refused)
        with pytest.raises((StoreError, FolderError), match=r"refuses access|answered 403"):
            use()
        assert len(bucket.refused) > before
    assert bucket.used == {token}
    assert all(store.read(key).data == b"{}" for key in (*theirs, "manifests/there.json"))


def _watch(thread: Thread, directory: Path, release: Callable[[], Any]) -> tuple[set[str], set[str], int]:
    """While the run goes on: files and command lines that hold what is planted, and trainers that have the key."""
    private: set[str] = set()
    lines: set[str] = set()
    environments = 0
    while thread.is_alive():
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            command, environment = _read(pid, "cmdline"), _read(pid, "environ")
            lines.update(command for planted in PLANTED if planted in command)
            environments += SECRET in environment and "trainer.py" in command
            assert TOKEN not in environment and OWN not in environment
        private |= _files_with(directory, *PLANTED)
        release()
        time.sleep(0.2)
    return private, lines, environments


def _read(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _files_with(root: Path, *planted: str) -> set[str]:
    """Files under `root` that hold any of the texts, with their modes: bucket, logs, Dagster's database, the host."""
    found = set()
    for path in files_below(root):
        try:
            if path.is_file() and any(text in path.read_bytes().decode(errors="replace") for text in planted):
                found.add(f"{path} {path.stat().st_mode & 0o777:o}")
        except OSError:
            continue
    return found


def test_a_bare_host_is_prepared_once_for_each_lock(host: Host, checkout: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = f"--no-index --find-links {tmp_path}/index"

    def run(say: Callable[[str], Any] = said.append) -> str:
        return prepare(host, checkout, say, options)

    assert run().endswith("was made")
    python = Path(host.root, "env/bin/python")
    program = "import aquarat_core, locked, rustbpe_py; print(aquarat_core.ANSWER)"
    out = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd="/")
    assert out.stdout == "42\n", out.stderr
    assert len([line for line in said if "sending" in line]) == 3
    made = os.readlink(Path(host.root, "env"))

    said.clear()
    assert run().endswith("was there")
    assert not [line for line in said if "sending" in line]

    (checkout / "aquarat_core/__init__.py").write_text("ANSWER = 43\n")
    assert run().endswith("was made")
    assert os.readlink(Path(host.root, "env")) != made
    assert Path(made, "bin/python").exists(), "a job that runs keeps the environment it started in"


@pytest.mark.parametrize("how", ["a link", "open to others", "a file"])
def test_a_socket_folder_that_others_may_have_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / f"aquarat-ssh-{os.getuid()}"
    if how == "a link":
        (tmp_path / "own").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "own")
    elif how == "a file":
        path.touch(mode=0o600)
    else:
        path.mkdir()
        path.chmod(0o777)
    with pytest.raises(HostError, match="only you can enter"):
        SshTransport(Host(name="far", address="nobody@127.0.0.1")).shell("true")
