"""Which environment a host gets: by the table, and by preparing hosts whose driver and Python are played by scripts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.agent.protocol import Machine
from aquarat_core.artifacts import hardware
from aquarat_core.artifacts.environment import ENVIRONMENT_FILE
from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.hosts import doctor
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.environments import LOCKS, Environment, UnfitHostError, choose, environments, for_driver
from aquarat_pipeline.hosts.host import Host, RentedHost
from aquarat_pipeline.hosts.prepare import prepare
from aquarat_pipeline.hosts.transports import HostError, SshTransport
from tests.launching.network import SSHD, loopback

WHEEL = "rustbpe_py-0.2.0-cp311-abi3-manylinux_2_34_x86_64.whl"
UBUNTU_24 = {"command": "/usr/bin/python3", "version": "3.12.3", "venv": True}
BARE_24 = UBUNTU_24 | {"venv": False}
UBUNTU_22 = {"command": "/usr/bin/python3", "version": "3.10.12", "venv": True}
NEWEST = {"command": "/usr/bin/python3", "version": "3.15.1", "venv": True}


def machine(driver: str | None = None, *pythons: Any, **changes: Any) -> Machine:
    found: Any = {"gpus": [], "driver": driver, "driver_problem": None, "pythons": [*pythons] or [UBUNTU_24]}
    return found | {"architecture": "x86_64", "libc": "glibc 2.35", **changes}


# --- the table of docs/hosts.md ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "gpus", "environment", "python"),
    [
        (machine("580.65.06"), 8, "cuda13", "3.12.3"),
        (machine("595.10"), 8, "cuda13", "3.12.3"),
        (machine("575.57.08"), 8, "cuda12", "3.12.3"),
        (machine("535.183.06"), 8, "cuda12", "3.12.3"),
        (machine("525.60.13"), 8, "cuda12", "3.12.3"),
        (machine("535.183.06", UBUNTU_22), 8, "cuda12", None),
        (machine("580.65.06", BARE_24), 8, "cuda13", None),
        (machine("580.65.06", NEWEST), 8, "cuda13", None),
        (machine("580.65.06", UBUNTU_22, UBUNTU_24), 8, "cuda13", "3.12.3"),
        (machine("535.183.06"), 0, "cuda12", "3.12.3"),
        (machine(None), 0, "cuda13", "3.12.3"),
        (machine(None, libc="glibc 2.34"), 0, "cuda13", "3.12.3"),
    ],
)
def test_what_is_served(found: Machine, gpus: int, environment: str, python: str | None) -> None:
    choice = choose(environments(REPO_ROOT), found, WHEEL, gpus=gpus, brings=True)
    assert choice.environment.name == environment
    assert (choice.python and choice.python["version"]) == python


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (machine("470.57.02"), "driver 470.57.02 is too old: CUDA 13.2 needs 580 or newer, CUDA 12.8 needs 525 or"),
        (machine("[N/A]"), "unreadable version"),
        (machine(None), "it has no NVIDIA driver, but 8 GPUs are promised"),
        (machine(None, driver_problem="nvidia-smi fails: Driver/library version mismatch"), "version mismatch"),
        (
            machine("580.65.06", architecture="aarch64"),
            "its processor is aarch64, but the tokenizer's wheel is for",
        ),
        (machine("580.65.06", libc="glibc 2.31"), "its C library is glibc 2.31, but the tokenizer's wheel needs glibc"),
        (machine("580.65.06", libc=""), "its C library is unknown"),
        (
            machine("580.65.06", UBUNTU_22),
            r"no Python 3.11 to 3.14 with venv \(only 3.10.12\), and there is no uv",
        ),
        (machine("580.65.06", BARE_24), r"only 3.12.3 without venv"),
    ],
)
def test_what_is_refused(found: Machine, why: str) -> None:
    with pytest.raises(UnfitHostError, match=why):
        choose(environments(REPO_ROOT), found, WHEEL, gpus=8, brings=False)


def test_an_offer_whose_driver_is_known_can_be_judged_before_it_costs_anything() -> None:
    assert for_driver(environments(REPO_ROOT), "535").name == "cuda12"
    with pytest.raises(UnfitHostError, match="too old"):
        for_driver(environments(REPO_ROOT), "515.105.01")


def test_the_locks_are_in_the_table(tmp_path: Path) -> None:
    found = environments(REPO_ROOT)
    assert [one.lock.name for one in found] == list(LOCKS)
    assert [(one.name, one.min_driver) for one in found] == [("cuda13", 580), ("cuda12", 525)]
    assert all(one.torch for one in found)
    (tmp_path / "x.lock").write_text("cuda-toolkit==14.1.0 \\\n")
    with pytest.raises(UnfitHostError, match=r"is for CUDA 14\.1, whose oldest driver is not known"):
        Environment.of(tmp_path / "x.lock")


# --- hosts ------------------------------------------------------------------------------------------------------------

Far = Callable[..., AbstractContextManager[Host]]


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    """Makes hosts behind sshd, whose programs are this machine's, but for Python and the NVIDIA driver."""
    if not shutil.which(SSHD) or not shutil.which("ssh"):
        pytest.skip("there is no sshd: install openssh-server and openssh-client")

    @contextmanager
    def make(driver: str | None, python: str = sys.executable, **env: str) -> Iterator[Host]:
        programs = tmp_path / "programs"
        programs.mkdir()
        for path in Path("/usr/bin").iterdir():
            if not path.name.startswith(("python", "pip", "nvidia", "uv")):
                (programs / path.name).symlink_to(path)
        (programs / "python3").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        if driver:
            (programs / "nvidia-smi").write_text(f"#!/bin/sh\necho 'NVIDIA H100 PCIe, {driver}, 81559 MiB'\n")
        for path in programs.iterdir():
            if not path.is_symlink():
                path.chmod(0o755)
        # A HOME of its own, because the shell's start-up files may lead to other Pythons.
        with loopback(tmp_path, {"PATH": str(programs), "HOME": str(programs), **env}) as (config, fields):
            monkeypatch.setenv("AQUARAT_SSH_CONFIG", str(config))
            host = Host(**fields | {"python": None, "gpus": 1 if driver else 0})
            yield host
            SshTransport(host).close()

    yield make


def prepared(host: Host, checkout: Path) -> str:
    """Prepares the host from the wheels beside the checkout; what was said and done."""
    said: list[str] = []
    done = prepare(host, checkout, said.append, f"--no-index --find-links {checkout.parent}/index")
    return "\n".join([*said, done])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "name", "torch", "cuda"),
    [("580.65.06", "cuda13", "2.15.0", "13.2"), ("535.183.06", "cuda12", "2.10.0", "12.8")],
)
def test_a_host_gets_what_its_driver_runs(
    far: Far, checkout: Path, driver: str, name: str, torch: str, cuda: str
) -> None:
    with far(driver) as host:
        assert f"{name} (torch {torch}, CUDA {cuda}), was made" in prepared(host, checkout)
        record = json.loads(Path(host.root, "env", ENVIRONMENT_FILE).read_text())
        lock = checkout / ("requirements-host.lock" if name == "cuda13" else "requirements-host-cuda12.lock")
        assert record == {
            "name": name, "torch": torch, "cuda": cuda, "driver": driver,
            "python": str(Path(os.environ["AQUARAT_SSH_CONFIG"]).parents[1] / "programs/python3"),
            "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest(),
        }  # fmt: skip
        program = "from importlib.metadata import version; print(version('torch'))"
        out = subprocess.run([f"{host.root}/env/bin/python", "-c", program], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == torch
        assert prepared(host, checkout).endswith("was there")


@pytest.mark.slow
def test_a_host_with_a_driver_that_is_too_old_gets_nothing(far: Far, checkout: Path) -> None:
    with far("470.57.02") as host:
        with pytest.raises(UnfitHostError, match=r"^far: its NVIDIA driver 470.57.02 is too old"):
            prepared(host, checkout)
        assert not Path(host.root, "wheels").exists()
        found = doctor.examine(host, prepared=False, checkout=checkout)
        assert any("driver 470.57.02 is too old" in problem for problem in found["problems"])


@pytest.mark.slow
def test_the_doctor_says_which_environment_a_host_gets_and_what_differs_from_the_offer(
    far: Far, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUARAT_STORE", tmp_path.as_uri())
    with far("535.183.06") as host:
        found = doctor.examine(host, prepared=False, checkout=checkout)
        assert found["problems"] == []
        assert (found["facts"]["driver"], found["facts"]["environment"]) == ("535.183.06", "cuda12")
        assert str(found["facts"]["pythons"]).startswith("3.")
        offered = {"gpu_kind": "H100 SXM5", "gpu_memory_gb": 94.0}
        fields = host.model_dump() | {"folder": checkout, "expires": 2e9, "user": "x", "address": "203.0.113.7"}
        rented = RentedHost.model_validate(fields | offered)
        reply = HostAgent(host).machine()
        assert doctor._promises(rented, reply) == [
            "a H100 SXM5 was offered, but the driver shows NVIDIA H100 PCIe",
            "94 GB of memory were offered for each GPU, but NVIDIA H100 PCIe has 86 GB",
        ]
        as_offered = rented.model_copy(update={"gpu_kind": "H100", "gpu_memory_gb": 80.0})
        assert doctor._promises(as_offered, reply) == []


def old_python() -> str:
    """A Python that is too old for the project."""
    candidates = [shutil.which("python3.10"), *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python3"))]
    works = (c for c in candidates if c and subprocess.run([c, "-c", ""], capture_output=True).returncode == 0)
    found = next(works, None)
    if found is None:
        pytest.skip("there is no Python 3.10 here")
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An interpreter as uv downloads it, made from one of this machine's; and a list that leads uv to it."""
    installed = next(iter(Path.home().glob(".pyenv/versions/3.12.*")), None)
    if installed is None:
        pytest.skip("there is no Python 3.12 here that could be packed")
    left_out = {"test", "tests", "__pycache__", "site-packages", "idlelib", "tkinter", "lib2to3", "pydoc_data"}

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = info.name.split("/")
        return None if left_out & {*parts} or any(part.startswith("config-3") for part in parts) else info

    path = tmp_path / "python.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(installed / "bin/python3.12", "python/bin/python3.12")
        tar.add(installed / "lib/python3.12", "python/lib/python3.12", filter=kept)
    entry = {
        "name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux", "libc": "gnu", "major": 3,
        "minor": 12, "patch": int(installed.name.rpartition(".")[2]), "prerelease": "", "variant": None,
        "url": path.as_uri(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "build": "20260101",
    }  # fmt: skip
    listed = tmp_path / "downloads.json"
    listed.write_text(json.dumps({f"cpython-3.12.{entry['patch']}-linux-x86_64-gnu": entry}))
    return listed


@pytest.fixture
def with_uv(checkout: Path) -> Path:
    """The checkout with the uv of this one."""
    uv = REPO_ROOT / ".uv/bin/uv"
    found = str(uv) if uv.exists() else shutil.which("uv")
    if found is None:
        pytest.skip("there is no uv here")
    (checkout / ".uv/bin").mkdir(parents=True)
    (checkout / ".uv/bin/uv").symlink_to(found)
    return checkout


@pytest.mark.slow
def test_a_host_with_an_old_python_gets_one(far: Far, with_uv: Path, archive: Path) -> None:
    """By the real uv, from a list of downloads that is in the host's own environment, as a mirror would be."""
    with far("535.183.06", old_python(), UV_PYTHON_DOWNLOADS_JSON_URL=archive.as_uri()) as host:
        said = prepared(host, with_uv)
        assert "it has no suitable Python, so uv installs 3.12 below " in said and said.endswith("was made")
        python = Path(host.root, "env/bin/python")
        out = subprocess.run([python, "-c", "import sys, aquarat_core; print(sys.version)"], capture_output=True)
        assert out.stdout.startswith(b"3.12."), out.stderr
        assert str(python.resolve()).startswith(f"{host.root}/pythons/")
        assert json.loads(Path(host.root, "env", ENVIRONMENT_FILE).read_text())["python"] == "uv, 3.12"
        assert prepared(host, with_uv).endswith("was there")


@pytest.mark.slow
def test_an_interpreter_that_was_tampered_with_is_refused(far: Far, with_uv: Path, archive: Path) -> None:
    with archive.with_name("python.tar.gz").open("ab") as file:
        file.write(b"more")
    with far("535.183.06", old_python(), UV_PYTHON_DOWNLOADS_JSON_URL=archive.as_uri()) as host:
        with pytest.raises(HostError, match=r"[Hh]ash mismatch"):
            prepared(host, with_uv)
        assert not Path(host.root, "env").exists()


def test_a_manifest_names_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert "environment" not in hardware()
    for text in ("{", "[]", "{}"):
        (tmp_path / ENVIRONMENT_FILE).write_text(text)
        assert "environment" not in hardware()
    (tmp_path / ENVIRONMENT_FILE).write_text('{"name": "cuda12", "python": "uv, 3.12"}')
    assert hardware()["environment"] == "cuda12, Python from uv, 3.12"
